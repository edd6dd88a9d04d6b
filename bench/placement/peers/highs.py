"""HiGHS: a mixed-integer flow. What flows along an arc is the number of layers that are done; it grows by each device's own, so
that no circle can close apart from the route.

A process of its own: OR-Tools carries another HiGHS with the same symbols.
"""

import highspy
import numpy

from instance import answer_all


class Program:
    """Columns and rows of an integer program, as they are added."""

    def __init__(self):
        self.cost, self.lower, self.upper, self.integer = [], [], [], []
        self.starts, self.index, self.value, self.row_lower, self.row_upper = [0], [], [], [], []

    def column(self, cost, lower, upper, integer=True):
        self.cost.append(cost)
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, terms, lower, upper):
        for column, value in terms:
            self.index.append(column)
            self.value.append(value)
        self.starts.append(len(self.index))
        self.row_lower.append(lower)
        self.row_upper.append(upper)

    def to_highs(self):
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.cost), len(self.row_lower)
        lp.col_cost_ = numpy.array(self.cost, dtype=float)
        lp.col_lower_ = numpy.array(self.lower, dtype=float)
        lp.col_upper_ = numpy.array(self.upper, dtype=float)
        lp.row_lower_ = numpy.array(self.row_lower, dtype=float)
        lp.row_upper_ = numpy.array(self.row_upper, dtype=float)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = numpy.array(self.starts)
        lp.a_matrix_.index_ = numpy.array(self.index)
        lp.a_matrix_.value_ = numpy.array(self.value, dtype=float)
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[integer] for integer in self.integer]
        return lp


def build(instance):
    program = Program()
    devices, layers, infinite = instance.devices, instance.layers, highspy.kHighsInf
    first = [program.column(instance.entry_us[i], 0, 1) for i in devices]
    last = [program.column(instance.last_us(i), 0, 1) for i in devices]
    count = [program.column(instance.layer_us[i], 0, min(instance.capacity[i], layers)) for i in devices]
    pairs = [(i, j) for i in devices for j in devices if i != j]
    arc = {(i, j): program.column(instance.way_us[i][j], 0, 1) for i, j in pairs}
    flow = {pair: program.column(0, 0, layers - 1, integer=False) for pair in pairs}
    program.row([(column, 1) for column in first], 1, 1)
    program.row([(column, 1) for column in last], 1, 1)
    program.row([(column, 1) for column in count], layers, layers)
    for i in devices:
        others = [j for j in devices if j != i]
        into = [(first[i], 1)] + [(arc[j, i], 1) for j in others]
        out_of = [(last[i], 1)] + [(arc[i, j], 1) for j in others]
        program.row(into + [(column, -1) for column, _ in out_of], 0, 0)
        program.row(into, 0, 1)
        program.row([(count[i], 1)] + [(column, -1) for column, _ in into], 0, infinite)
        program.row([(count[i], 1)] + [(column, -instance.capacity[i]) for column, _ in into], -infinite, 0)
        grown = [(flow[i, j], 1) for j in others] + [(flow[j, i], -1) for j in others]
        program.row(grown + [(last[i], layers), (count[i], -1)], 0, 0)
    for pair in pairs:
        program.row([(flow[pair], 1), (arc[pair], -1)], 0, infinite)
        program.row([(flow[pair], 1), (arc[pair], 1 - layers)], -infinite, 0)
    return program.to_highs()


def solve(instance, cap_s):
    highs = highspy.Highs()
    for option, value in {
        "output_flag": False,
        "threads": 1,
        "time_limit": cap_s,
        "mip_rel_gap": 0.0,
        # All costs are whole numbers.
        "mip_abs_gap": 0.999,
    }.items():
        highs.setOptionValue(option, value)
    highs.passModel(build(instance))

    def run():
        highs.run()
        info, status = highs.getInfo(), highs.getModelStatus()
        proved = status == highspy.HighsModelStatus.kOptimal
        found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        infeasible = status == highspy.HighsModelStatus.kInfeasible
        return {
            "status": "optimal" if proved else "feasible" if found else "infeasible" if infeasible else "unknown",
            "objective": round(info.objective_function_value) if found else None,
            "bound": info.mip_dual_bound if numpy.isfinite(info.mip_dual_bound) else None,
        }

    return run


if __name__ == "__main__":
    answer_all(solve)
