use super::*;
use std::path::Path;

/// An operator that never answers.
struct Silent;

impl WorkerLeaves for Silent {
    async fn ensure(&self, _model_uid: &str, _directory: &Path) -> Result<(), Fault> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_never_comes_is_left_before_the_next_turn_begins() {
    let folder = tempfile::tempdir().unwrap();
    let slot = Slot {
        model_uid: "m".to_owned(),
        slice: "0-1.a".to_owned(),
    };
    let places = Places::new(folder.path(), &slot);
    let began = Instant::now();
    renew_leaf(Arc::new(Silent), Trust::default(), slot, places).await;
    assert!(began.elapsed() < RENEW_LEAVES_EVERY);
}
