//! The executable where nothing is that it could work with.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output};

fn operator(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwright-operator"));
    for name in [
        "POD_NAME",
        "POD_NAMESPACE",
        "SHARDWRIGHT_LOG",
        "KUBERNETES_SERVICE_HOST",
    ] {
        command.env_remove(name);
    }
    command.env("KUBECONFIG", "/nonexistent/kubeconfig");
    command.args(arguments).output().unwrap()
}

#[test]
fn without_a_way_to_an_api_server_it_ends_with_64_and_says_what_to_set() {
    let output = operator(&["--pod-name", "operator-0"]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{complaint}");
    for part in [
        "no usable Kubernetes configuration: ",
        "; set KUBECONFIG, or run in a pod with a service account",
    ] {
        assert!(complaint.contains(part), "{part} in {complaint}");
    }
}

#[test]
fn bad_configuration_ends_with_64_and_names_the_flag() {
    for (arguments, named) in [
        (&["--pod-name", "Not A Name"][..], "--pod-name"),
        (&["--pod-name", "a", "--lease-seconds", "1"][..], "--lease-seconds"),
        (
            &["--pod-name", "a", "--admin-listen", "everywhere"][..],
            "--admin-listen",
        ),
        (&[][..], "--pod-name"),
    ] {
        let output = operator(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {complaint}");
        assert!(complaint.contains(named), "{arguments:?}: {complaint}");
    }
}
