use super::*;

fn parse(arguments: &[&str]) -> Result<Settings, String> {
    Settings::of(arguments)
}

#[test]
fn defaults_name_the_services_of_the_namespace() {
    let settings = parse(&["--namespace", "blue"]).unwrap();
    assert!(
        settings
            .server_names
            .contains(&SubjectName::Dns("shardwright-operator.blue.svc".into()))
    );
    assert!(
        settings
            .gateway_names
            .contains(&SubjectName::Dns("shardwright-gateway.blue".into()))
    );
    assert!(settings.server_names.contains(&SubjectName::Ip([127, 0, 0, 1].into())));
    assert_eq!(settings.lease, Duration::from_secs(15));
}

#[test]
fn names_may_be_given_as_one_list() {
    let settings = parse(&["--server-names", "operator.example,10.0.0.7"]).unwrap();
    assert_eq!(
        settings.server_names,
        vec![
            SubjectName::Dns("operator.example".into()),
            SubjectName::Ip([10, 0, 0, 7].into())
        ]
    );
}

#[test]
fn nonsense_is_refused_with_the_name_of_the_flag() {
    for (arguments, flag) in [
        (["--namespace", "Blue_"], "--namespace"),
        (["--trust-domain", "x-"], "--trust-domain"),
        (["--server-names", "a,,b"], "--server-names"),
        (["--lease-seconds", "1"], "--lease-seconds"),
        (["--lease-seconds", "301"], "--lease-seconds"),
        (["--quarantine-limit-percent", "101"], "--quarantine-limit-percent"),
    ] {
        let error = parse(&arguments).unwrap_err();
        assert!(error.contains(flag), "{error}");
    }
}
