"""OR-Tools' CP-SAT: one circuit through the devices that are used, one integer number of layers each."""

from ortools.sat.python import cp_model

from instance import answer_all

STATUS = {cp_model.OPTIMAL: "optimal", cp_model.FEASIBLE: "feasible", cp_model.INFEASIBLE: "infeasible"}


def build(instance):
    model = cp_model.CpModel()
    depot = len(instance.devices)
    arcs, costs = [], []

    def arc(tail, head, cost):
        literal = model.new_bool_var("")
        arcs.append((tail, head, literal))
        costs.append(cost * literal)
        return literal

    counts = []
    for i in instance.devices:
        arc(depot, i, instance.entry_us[i])
        arc(i, depot, instance.last_us(i))
        for j in instance.devices:
            if i != j:
                arc(i, j, instance.way_us[i][j])
        unused = arc(i, i, 0)
        count = model.new_int_var(0, min(instance.capacity[i], instance.layers), "")
        model.add(count == 0).only_enforce_if(unused)
        model.add(count >= 1).only_enforce_if(~unused)
        counts.append(count)
        costs.append(instance.layer_us[i] * count)
    model.add_circuit(arcs)
    model.add(sum(counts) == instance.layers)
    model.minimize(sum(costs))
    return model


def solve(instance, cap_s):
    model = build(instance)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = cap_s

    def run():
        status = solver.solve(model)
        found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        return {
            "status": STATUS.get(status, "unknown"),
            "objective": round(solver.objective_value) if found else None,
            "bound": solver.best_objective_bound,
        }

    return run


if __name__ == "__main__":
    answer_all(solve)
