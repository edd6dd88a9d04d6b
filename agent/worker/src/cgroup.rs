//! The control groups that this process is in.

use std::path::{Path, PathBuf};

/// Where hierarchies of control groups are, by the convention of all container runtimes.
pub(crate) const HIERARCHIES: &str = "/sys/fs/cgroup";

/// Of `/proc/self/cgroup`: each group by which `controller` may limit this process, as the folder of its hierarchy and its path below
/// that.
pub(crate) fn groups<'a>(membership: &'a str, hierarchies: &Path, controller: &str) -> Vec<(PathBuf, &'a str)> {
    let mut groups = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let root = match controllers {
            "" => hierarchies.to_path_buf(),
            _ if controllers.split(',').any(|named| named == controller) => hierarchies.join(controller),
            _ => continue,
        };
        groups.push((root, group.trim_start_matches('/')));
    }
    groups
}
