//! The committed instances: devices, links and equal layers. The README beside them has the form.

use std::{fs, path::Path, path::PathBuf};

use placement::core::{NEVER_NS, Problem, Unit};

use crate::BenchError;

/// One instance and what is known of it. Times are in microseconds, as in the files.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    /// `dc`, `home`, …
    pub family: String,
    /// `16x80`
    pub size: String,
    /// Layers as a share of what all devices can hold: `0.6`.
    pub rho: String,
    pub path: PathBuf,
    pub layers: usize,
    pub layer_us: Vec<u64>,
    /// In layers.
    pub capacity: Vec<usize>,
    pub head_us: Vec<u64>,
    pub entry_us: Vec<u64>,
    pub exit_us: Vec<u64>,
    pub way_us: Vec<Vec<u64>>,
    pub best_known_us: Option<u64>,
    pub is_proved: bool,
}

/// Which device has how many layers, in the order of the stages.
pub type Assignment = Vec<(usize, usize)>;

/// Reads all instances of a folder, in the order of its table of best known values.
///
/// # Errors
/// A file that cannot be read or has another form.
pub fn read_all(folder: &Path) -> Result<Vec<Instance>, BenchError> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| BenchError::File {
            path: path.display().to_string(),
            source,
        })
    };
    let table = read(&folder.join("best-known.csv"))?;
    let mut instances = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [name, best, proved] = fields[..] else { continue };
        let path = folder.join(format!("{name}.txt"));
        let parsed = parse(name, &read(&path)?);
        let mut instance = parsed.map_err(|what| BenchError::Instance {
            name: name.to_owned(),
            what: what.to_owned(),
        })?;
        instance.path = path;
        instance.best_known_us = best.parse().ok();
        instance.is_proved = proved == "true";
        instances.push(instance);
    }
    Ok(instances)
}

fn parse(name: &str, text: &str) -> Result<Instance, &'static str> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        rows.push(numbers.map_err(|_| "a word that is no number")?);
    }
    let parts: Vec<&str> = name.split('_').collect();
    let [family, size, rho, _seed] = parts[..] else {
        return Err("a name that is not family_size_rho_seed");
    };
    let [head, layer_us, capacity, head_us, entry_us, exit_us, way_us @ ..] = rows.as_slice() else {
        return Err("too few lines");
    };
    let [devices, layers] = head[..] else {
        return Err("a first line that is not two numbers");
    };
    let devices = usize::try_from(devices).map_err(|_| "too many devices")?;
    let is_long = |row: &Vec<u64>| row.len() == devices;
    if way_us.len() != devices || !rows[1..].iter().all(is_long) {
        return Err("a line whose length is not the number of devices");
    }
    Ok(Instance {
        name: name.to_owned(),
        family: family.to_owned(),
        size: size.to_owned(),
        rho: rho.to_owned(),
        path: PathBuf::new(),
        layers: usize::try_from(layers).map_err(|_| "too many layers")?,
        layer_us: layer_us.clone(),
        capacity: capacity.iter().filter_map(|c| usize::try_from(*c).ok()).collect(),
        head_us: head_us.clone(),
        entry_us: entry_us.clone(),
        exit_us: exit_us.clone(),
        way_us: way_us.to_vec(),
        best_known_us: None,
        is_proved: false,
    })
}

impl Instance {
    pub fn devices(&self) -> usize {
        self.layer_us.len()
    }

    /// The question as the core takes it. Its nanoseconds are the instance's microseconds.
    pub fn problem(&self) -> Problem {
        self.problem_of(&(0..self.devices()).collect::<Vec<usize>>())
    }

    /// The same with some of the devices only, in the order given.
    pub fn problem_of(&self, devices: &[usize]) -> Problem {
        let unit = |device: &usize| Unit {
            head_ns: self.head_us[*device],
            entry_ns: self.entry_us[*device],
            exit_ns: self.exit_us[*device],
            ..Unit::uniform(self.layers, self.layer_us[*device], self.capacity[*device])
        };
        let row = |from: &usize| devices.iter().map(|to| self.way_us[*from][*to]).collect();
        let way_ns: Vec<Vec<u64>> = devices.iter().map(row).collect();
        Problem {
            layers: self.layers,
            units: devices.iter().map(unit).collect(),
            carry_ns: way_ns.clone(),
            way_ns,
            cuts: (1..self.layers).collect(),
            min_stages: 1,
            max_stages: devices.len(),
            needed: Vec::new(),
            forbidden: None,
            below_ns: NEVER_NS,
        }
    }

    /// What an assignment costs; `None` for one that is no plan. Shares nothing with any solver.
    pub fn latency_us(&self, assignment: &[(usize, usize)]) -> Option<u64> {
        let (first, last) = (assignment.first()?.0, assignment.last()?.0);
        let mut used = vec![false; self.devices()];
        let mut latency_us = self.entry_us[first] + self.head_us[last] + self.exit_us[last];
        for (device, layers) in assignment {
            if *layers == 0 || *layers > self.capacity[*device] || std::mem::replace(&mut used[*device], true) {
                return None;
            }
            latency_us += self.layer_us[*device] * u64::try_from(*layers).ok()?;
        }
        for pair in assignment.windows(2) {
            latency_us += self.way_us[pair[0].0][pair[1].0];
        }
        let placed: usize = assignment.iter().map(|(_, layers)| layers).sum();
        (placed == self.layers).then_some(latency_us)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Instance, parse};

    pub(crate) const TWO_CARDS: &str = "2 4\n10 30\n3 3\n1 2\n5 6\n7 8\n0 100\n200 0\n";

    pub(crate) fn two_cards() -> Instance {
        parse("dc_2x4_0.6_1", TWO_CARDS).expect("an instance")
    }

    #[test]
    fn an_assignment_costs_its_layers_its_ways_its_head_and_both_ends() {
        let instance = two_cards();
        assert_eq!(instance.latency_us(&[(0, 3), (1, 1)]), Some(5 + 30 + 100 + 30 + 2 + 8));
        assert_eq!(instance.latency_us(&[(1, 1), (0, 3)]), Some(6 + 30 + 200 + 30 + 1 + 7));
    }

    #[test]
    fn what_is_no_plan_costs_nothing_that_could_be_compared() {
        let instance = two_cards();
        assert_eq!(instance.latency_us(&[(0, 4)]), None, "no room");
        assert_eq!(instance.latency_us(&[(0, 3)]), None, "layers are missing");
        assert_eq!(instance.latency_us(&[(0, 2), (0, 2)]), None, "a device twice");
        assert_eq!(instance.latency_us(&[]), None);
    }

    #[test]
    fn a_file_of_another_form_is_refused() {
        assert!(parse("dc_2x4_0.6_1", "2 4\n1 2\n").is_err());
        assert!(parse("dc_2x4_0.6_1", &TWO_CARDS.replace("0 100", "0 100 1")).is_err());
        assert!(parse("dc", TWO_CARDS).is_err());
    }
}
