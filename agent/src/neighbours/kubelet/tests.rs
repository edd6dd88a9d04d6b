use super::super::fixture::{FakeKubelet, Script, claiming, devices, pod};
use super::*;

fn uuid(digit: u8) -> String {
    format!("GPU-{digit}f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11")
}

async fn ask(kubelet: &FakeKubelet) -> Result<Listing, KubeletError> {
    Kubelet::new(&kubelet.socket()).ask().await
}

#[tokio::test]
async fn what_every_container_of_every_pod_holds_is_read_over_the_socket() {
    let kubelet = FakeKubelet::saying(Script {
        pods: vec![
            pod(
                "science/train",
                vec![
                    devices("nvidia.com/gpu", &[&uuid(1), &uuid(2)]),
                    devices("nvidia.com/gpu", &[&uuid(3)]),
                    devices("example.com/nic", &["eth0"]),
                ],
            ),
            claiming("science/claims", "gpu.nvidia.com", "worker-1", "gpu-0"),
            pod("science/plain", Vec::new()),
        ],
        offered: vec![devices("nvidia.com/gpu", &[&uuid(1)]), devices("amd.com/gpu", &[])],
        ..Script::default()
    });
    let listing = ask(&kubelet).await.unwrap();
    let told: Vec<String> = listing.held.iter().map(|held| format!("{} {held}", held.pod)).collect();
    assert_eq!(
        told,
        [
            format!("science/train nvidia {:?}", uuid(1)),
            format!("science/train nvidia {:?}", uuid(2)),
            format!("science/train nvidia {:?}", uuid(3)),
            "science/claims gpu.nvidia.com \"worker-1\" \"gpu-0\"".to_owned(),
        ]
    );
    assert_eq!(
        listing.offered,
        BTreeSet::from([Vendor::Nvidia]),
        "a plugin that offers none offers nothing"
    );
}

#[tokio::test]
async fn no_socket_is_no_kubelet() {
    let kubelet = FakeKubelet::absent();
    let error = ask(&kubelet).await.unwrap_err();
    assert!(matches!(error, KubeletError::Absent(_)), "{error}");
    assert!(error.to_string().contains("kubelet.sock"), "{error}");
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_a_silent_kubelet() {
    let kubelet = FakeKubelet::absent();
    drop(std::os::unix::net::UnixListener::bind(kubelet.socket()).unwrap());
    assert!(matches!(ask(&kubelet).await, Err(KubeletError::Silent(_))));
}

#[tokio::test]
async fn a_kubelet_that_refuses_or_hangs_is_silent_and_is_asked_again() {
    let kubelet = FakeKubelet::saying(Script {
        refuses: true,
        ..Script::default()
    });
    let mut client = Kubelet::new(&kubelet.socket());
    let refused = client.ask().await.unwrap_err().to_string();
    assert!(refused.contains("device manager is not ready"), "{refused}");
    kubelet.says(Script {
        hangs: true,
        ..Script::default()
    });
    let hung = client.ask().await.unwrap_err().to_string();
    assert!(hung.contains("no answer within"), "{hung}");
    kubelet.says(Script::default());
    assert_eq!(client.ask().await.unwrap(), Listing::default());
}

#[tokio::test]
async fn a_kubelet_that_was_restarted_is_found_again() {
    let mut kubelet = FakeKubelet::saying(Script::default());
    let mut client = Kubelet::new(&kubelet.socket());
    client.ask().await.unwrap();
    kubelet.stop();
    assert!(matches!(client.ask().await, Err(KubeletError::Absent(_))));
    kubelet.start();
    assert_eq!(client.ask().await.unwrap(), Listing::default());
}

#[tokio::test]
async fn an_answer_of_more_than_sixteen_mebibytes_is_refused() {
    let long = "a".repeat(1 << 20);
    let kubelet = FakeKubelet::saying(Script {
        pods: vec![pod("a/b", vec![devices("nvidia.com/gpu", &[long.as_str(); 17])])],
        ..Script::default()
    });
    let refused = ask(&kubelet).await.unwrap_err();
    assert!(matches!(refused, KubeletError::Silent(_)), "{refused}");
}

#[tokio::test]
async fn names_from_the_kubelet_are_cut_and_cleaned() {
    let long = format!("\u{1b}[31m{}", "x".repeat(4096));
    let kubelet = FakeKubelet::saying(Script {
        pods: vec![pod("a\n/b", vec![devices("amd.com/gpu", &[long.as_str()])])],
        ..Script::default()
    });
    let listing = ask(&kubelet).await.unwrap();
    assert_eq!(listing.held[0].pod.to_string(), "a?/b");
    let Name::Plugin(name) = &listing.held[0].name else {
        panic!("{listing:?}");
    };
    assert!(name.len() < 400 && name.starts_with("?[31m"), "{name}");
}
