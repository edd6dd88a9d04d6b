//! An independent judge of plans. It shares nothing with the solver but the problem and the plan: its sums are its own.

mod groups;
mod links;
mod together;
mod violation;

use std::{collections::BTreeMap, collections::BTreeSet};

use topology::{Device, Kind};

use crate::{Constraints, Plan, Problem, Stage};

pub use together::{check_fleet, check_together};
pub use violation::Violation;

/// Everything that is wrong with a plan; empty for one that may be published.
pub fn check(problem: &Problem, plan: &Plan) -> Vec<Violation> {
    let mut found = Vec::new();
    check_layers(problem, plan, &mut found);
    let devices = check_devices(problem, plan, &mut found);
    // Sums over layers that are not there would only repeat what was found.
    if found.is_empty() {
        check_pins(problem, &devices, &mut found);
        groups::check_own_pools(problem, &devices, &mut found);
        check_memory(problem, &devices, &mut found);
        check_ends(problem, &devices, &mut found);
        links::check_links(problem, std::slice::from_ref(plan), &mut found);
        check_times(problem, plan, &devices, &mut found);
    }
    found
}

fn check_layers(problem: &Problem, plan: &Plan, found: &mut Vec<Violation>) {
    let layers = u32::try_from(problem.model.layers.len()).unwrap_or(u32::MAX);
    if plan.stages.is_empty() {
        found.push(Violation::NoStages);
        return;
    }
    let mut expected_first = 0;
    for (index, stage) in plan.stages.iter().enumerate() {
        let (first_layer, end_layer) = (stage.first_layer, stage.end_layer);
        if first_layer != expected_first || end_layer <= first_layer {
            found.push(Violation::Gap {
                stage: index,
                expected_first,
                first_layer,
                end_layer,
            });
        } else if index > 0 && !problem.model.cuts.contains(&first_layer) {
            found.push(Violation::CutNotAllowed {
                stage: index,
                layer: first_layer,
            });
        }
        expected_first = end_layer;
    }
    if expected_first != layers {
        found.push(Violation::LayersMissing {
            end_layer: expected_first,
            layers,
        });
    }
}

/// The device of each stage, where there is one.
fn check_devices<'p>(problem: &'p Problem, plan: &'p Plan, found: &mut Vec<Violation>) -> Vec<(&'p Stage, &'p Device)> {
    let mut devices = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, stage) in plan.stages.iter().enumerate() {
        let device = problem.topology.devices.iter().find(|d| d.name == stage.device);
        for name in groups::names_of(stage, device) {
            if !seen.insert(name) {
                found.push(Violation::DeviceTwice {
                    device: name.to_owned(),
                });
            }
        }
        let Some(device) = device else {
            found.push(Violation::UnknownDevice {
                stage: index,
                device: stage.device.clone(),
            });
            continue;
        };
        if device.node != stage.node || device.backend != stage.backend {
            found.push(Violation::WrongIdentity {
                stage: index,
                device: device.name.clone(),
            });
        }
        groups::check_group(problem, index, device, found);
        check_allowed(&problem.constraints, device, found);
        check_taints(&problem.constraints, device, found);
        devices.push((stage, device));
    }
    let used = u32::try_from(plan.stages.len()).unwrap_or(u32::MAX);
    let Constraints {
        min_devices,
        max_devices,
        ..
    } = problem.constraints;
    if used < min_devices {
        found.push(Violation::TooFewDevices { min: min_devices, used });
    }
    if let Some(max) = max_devices.filter(|max| used > *max) {
        found.push(Violation::TooManyDevices { max, used });
    }
    devices
}

fn check_allowed(constraints: &Constraints, device: &Device, found: &mut Vec<Violation>) {
    let (members, max) = (device.members.len(), constraints.max_group_devices);
    if members > max as usize {
        found.push(Violation::GroupTooLarge {
            device: device.name.clone(),
            members,
            max,
        });
    }
    if device.kind == Kind::Software && !constraints.allow_software_devices {
        found.push(Violation::SoftwareNotAllowed {
            device: device.name.clone(),
        });
    }
    if !constraints.vendors.is_empty() && !constraints.vendors.contains(&device.vendor) {
        found.push(Violation::VendorNotListed {
            device: device.name.clone(),
            vendor: device.vendor.clone(),
        });
    }
    for (key, value) in &constraints.node_selector {
        if device.node_labels.get(key).is_none_or(|label| label != value) {
            found.push(Violation::NodeNotSelected {
                device: device.name.clone(),
                node: device.node.clone(),
            });
            break;
        }
    }
}

/// Each taint of the device needs a toleration of its own key (or of all), value (or any) and effect (or both).
fn check_taints(constraints: &Constraints, device: &Device, found: &mut Vec<Violation>) {
    for taint in &device.taints {
        let mut tolerated = false;
        for toleration in &constraints.tolerations {
            let of_any_key = toleration.key.is_none() && toleration.exists;
            let of_key = of_any_key || toleration.key.as_deref() == Some(taint.key.as_str());
            let of_value = toleration.exists || toleration.value == taint.value;
            let of_effect = toleration.effect.is_none() || toleration.effect == Some(taint.effect);
            tolerated |= of_key && of_value && of_effect;
        }
        if !tolerated {
            found.push(Violation::TaintNotTolerated {
                device: device.name.clone(),
                taint: taint.to_string(),
            });
        }
    }
}

fn check_pins(problem: &Problem, devices: &[(&Stage, &Device)], found: &mut Vec<Violation>) {
    for (index, pin) in problem.constraints.pinned_layers.iter().enumerate() {
        let mut layers = 0;
        for (stage, device) in devices {
            let named = |wanted: &Option<String>, is: &String| match wanted {
                Some(wanted) => wanted == is,
                None => true,
            };
            let mut of_device = named(&pin.device, &device.name);
            for member in &device.members {
                of_device |= named(&pin.device, &member.device);
            }
            if named(&pin.backend, &device.backend) && named(&pin.node, &device.node) && of_device {
                layers += stage.end_layer - stage.first_layer;
            }
        }
        let too_many = match pin.max_layers {
            Some(max) => layers > max,
            None => false,
        };
        if layers < pin.min_layers || too_many {
            found.push(Violation::PinBroken { pin: index, layers });
        }
    }
}

fn check_memory(problem: &Problem, devices: &[(&Stage, &Device)], found: &mut Vec<Violation>) {
    let model = &problem.model;
    let mut pools: BTreeMap<usize, u128> = BTreeMap::new();
    for (index, (stage, device)) in devices.iter().enumerate() {
        let mut weights: u128 = 0;
        let mut divided: u128 = 0;
        let mut whole = u128::from(model.compute_buffer_bytes) + u128::from(device.fixed_bytes);
        for layer in stage.first_layer..stage.end_layer {
            let Some(layer) = usize::try_from(layer).ok().and_then(|l| model.layers.get(l)) else {
                continue;
            };
            weights += u128::from(layer.weight_bytes);
            divided += u128::from(layer.weight_bytes) + u128::from(layer.kv_bytes);
        }
        if index == 0 {
            weights += u128::from(model.embedding_bytes);
            if device.kind != Kind::Discrete {
                divided += u128::from(model.embedding_bytes);
            }
        }
        if index + 1 == devices.len() {
            weights += u128::from(model.output_bytes);
            whole += u128::from(model.output_bytes) + u128::from(model.output_buffer_bytes);
        }
        // Of devices that work as one each has an equal part of the layers, and all of the rest.
        let members = device.members.len().max(1) as u128;
        let needed = (divided.div_ceil(members) + whole) * members;
        groups::check_members(problem, device, needed, found);
        if needed > u128::from(device.usable_bytes) {
            let device_name = device.name.clone();
            let usable_bytes = device.usable_bytes;
            found.push(Violation::DeviceMemory {
                device: device_name,
                needed_bytes: needed,
                usable_bytes,
            });
        }
        for (pool, bytes) in groups::bytes_of(device, needed) {
            *pools.entry(pool).or_default() += bytes;
        }
        if u128::from(stage.memory_bytes) != needed {
            found.push(Violation::StageMemory {
                stage: index,
                said: stage.memory_bytes,
                is: needed,
            });
        }
        figure(
            found,
            || format!("weights of stage {index}"),
            stage.weight_bytes,
            weights,
        );
    }
    for (pool, needed_bytes) in pools {
        check_pool(problem, pool, needed_bytes, found);
    }
}

/// That a pool has room for all that is in it.
fn check_pool(problem: &Problem, pool: usize, needed_bytes: u128, found: &mut Vec<Violation>) {
    let pool = problem.topology.pools.get(pool);
    let (name, usable_bytes) = pool.map_or(("?", 0), |p| (p.name.as_str(), p.usable_bytes));
    if needed_bytes > u128::from(usable_bytes) {
        found.push(Violation::PoolMemory {
            pool: name.to_owned(),
            needed_bytes,
            usable_bytes,
        });
    }
}

/// Where tokens are seen.
fn check_ends(problem: &Problem, devices: &[(&Stage, &Device)], found: &mut Vec<Violation>) {
    let constraints = &problem.constraints;
    for end in [devices.first(), devices.last()] {
        let Some((_, device)) = end else { continue };
        for (key, value) in &constraints.token_node_selector {
            if device.node_labels.get(key).is_none_or(|label| label != value) {
                found.push(Violation::TokensNotAllowed {
                    device: device.name.clone(),
                    node: device.node.clone(),
                });
                break;
            }
        }
    }
}

fn check_times(problem: &Problem, plan: &Plan, devices: &[(&Stage, &Device)], found: &mut Vec<Violation>) {
    let model = &problem.model;
    let moved = |bytes: u64, rate: u64| (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    let head = devices
        .first()
        .and_then(|(_, head)| problem.topology.entry_us.get(&head.node));
    let entry = head.map_or(0, |entry_us| u128::from(*entry_us) * 1000);
    figure(found, || "way in".to_owned(), plan.entry_ns, entry);
    let mut latency: u128 = entry;
    let mut slowest: u128 = 0;
    let mut pools: BTreeMap<usize, u128> = BTreeMap::new();
    for (index, (stage, device)) in devices.iter().enumerate() {
        let rate = device.bandwidth.bytes_per_second;
        let mut time = u128::from(device.launch_us) * 1000;
        for layer in stage.first_layer..stage.end_layer {
            let Some(layer) = usize::try_from(layer).ok().and_then(|l| model.layers.get(l)) else {
                continue;
            };
            let read = layer.active_bytes.saturating_add(layer.kv_read_bytes);
            time += moved(read, rate) + u128::from(device.layer_ns());
        }
        let mut hop: u128 = 0;
        match devices.get(index + 1) {
            None => time += moved(model.output_bytes, rate),
            Some((_, next)) => {
                let there = problem.topology.link(&device.node, &next.node);
                let back = problem.topology.link(&next.node, &device.node);
                let carry = moved(model.activation_bytes, there.rate.bytes_per_second);
                hop = (u128::from(there.latency_us) + u128::from(back.latency_us)) * 1000 + carry;
                slowest = slowest.max(carry);
            }
        }
        figure(found, || format!("time of stage {index}"), stage.time_ns, time);
        figure(
            found,
            || format!("hop after stage {index}"),
            stage.hop_ns.unwrap_or(0),
            hop,
        );
        latency += time + hop;
        for pool in groups::pools_of(device) {
            *pools.entry(pool).or_default() += time;
        }
    }
    slowest = pools.into_values().fold(slowest, u128::max);
    figure(found, || "latency".to_owned(), plan.latency_ns, latency);
    figure(found, || "slowest part".to_owned(), plan.slowest_ns, slowest);
    if let Some(tokens) = problem.constraints.min_tokens_per_second {
        let cap_ns = 1_000_000_000 / u64::from(tokens.max(1));
        if slowest > u128::from(cap_ns) {
            found.push(Violation::TooSlow {
                slowest_ns: slowest,
                cap_ns,
            });
        }
    }
}

fn figure(found: &mut Vec<Violation>, what: impl Fn() -> String, said: u64, is: u128) {
    if u128::from(said) != is {
        found.push(Violation::WrongFigure {
            what: what(),
            said: u128::from(said),
            is,
        });
    }
}

#[cfg(test)]
mod tests;
