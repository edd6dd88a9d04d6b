use super::*;
use std::path::PathBuf;
use tokio::net::UnixListener;

/// The socket of a worker that is played by the test.
struct Socket {
    folder: tempfile::TempDir,
}

impl Socket {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("w.sock")
    }

    /// The client's end of a connection, and the worker's.
    async fn connected(&self) -> (Client, UnixStream) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let client = Client::connect(&self.path()).await.unwrap();
        let (worker, _) = listener.accept().await.unwrap();
        (client, worker)
    }
}

#[tokio::test]
async fn a_worker_that_is_not_there_or_hangs_up_is_told_as_its_socket() {
    let socket = Socket::new();
    let absent = Client::connect(&socket.path()).await.err().unwrap();
    assert!(matches!(absent, ClientError::Io(_)), "{absent}");
    assert!(
        absent
            .to_string()
            .starts_with("the worker's control socket: No such file or directory"),
        "{absent}"
    );
    let (mut client, worker) = socket.connected().await;
    drop(worker);
    let ended = client.status().await.unwrap_err();
    assert!(matches!(ended, ClientError::Io(_)), "{ended}");
}

#[tokio::test]
async fn an_answer_of_nonsense_or_without_an_end_is_told_as_one_that_cannot_be_read() {
    let endless = vec![b'x'; ANSWER_BYTES_MAX as usize];
    for answer in [&b"no answer\n"[..], b"{}\n", &endless[..]] {
        let socket = Socket::new();
        let (mut client, mut worker) = socket.connected().await;
        let (said, written) = tokio::join!(client.status(), worker.write_all(answer));
        written.unwrap();
        let error = said.unwrap_err();
        assert!(matches!(error, ClientError::Malformed(_)), "{error}");
        assert!(
            error.to_string().starts_with("the worker's answer cannot be read: "),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_nothing_is_given_up_sooner_where_it_would_only_say_how_it_is() {
    let socket = Socket::new();
    let (mut client, _worker) = socket.connected().await;
    let silent = client.status().await.unwrap_err();
    assert!(matches!(silent, ClientError::Silent(_)), "{silent}");
    assert_eq!(silent.to_string(), "the worker did not answer within 0.75 s");
    let silent = client.drain().await.unwrap_err();
    assert!(matches!(silent, ClientError::Silent(_)), "{silent}");
    assert_eq!(silent.to_string(), "the worker did not answer within 5 s");
}
