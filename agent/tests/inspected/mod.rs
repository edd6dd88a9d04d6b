//! A tiny model at an HTTPS source, with the index that an operator would give: inspected by a node that nobody asks again.
#![allow(dead_code, reason = "each test file uses its part")]

use crate::{rig, tiny_model};
use agent::models::Wanted;
use gguf::index::WeightIndex;
use origin::Server;
use proto::control::v1::{ModelFacts, SourceAccess};
use std::path::Path;
use tokio::runtime::Runtime;

pub const PATH: &str = "/models/tiny.gguf";

pub struct Inspected {
    pub server: Server,
    pub facts: ModelFacts,
    /// Of its one file.
    pub header: Vec<u8>,
}

impl Inspected {
    /// One with matrices of so many rows. The source has counted nothing yet.
    pub fn of_rows(runtime: &Runtime, rows: u64) -> Self {
        let server = Server::start().unwrap();
        server.put(PATH, tiny_model::bytes(rows));
        let node = rig::Node::new(runtime);
        let facts = rig::inspect(runtime, &node.models, &server.url(PATH), Some(access(&server)), &[]).unwrap();
        let header = std::fs::read(rig::path_of(&node.models, &facts).join("header-0.gguf")).unwrap();
        server.put(&format!("{PATH}.index.json"), facts.index.clone());
        server.forget();
        Self { server, facts, header }
    }

    pub fn uri(&self) -> String {
        self.server.url(PATH)
    }

    pub fn index(&self) -> WeightIndex {
        WeightIndex::parse(&self.facts.index).unwrap()
    }

    pub fn wanted(&self) -> Wanted {
        rig::wanted(&self.facts, &self.uri(), Some(access(&self.server)))
    }

    /// Fails unless every piece under its final name is right, and counts them.
    pub fn check(&self, folder: &Path) -> usize {
        rig::check_folder(folder, &self.index(), std::slice::from_ref(&self.header))
    }
}

/// How the source is reached.
pub fn access(server: &Server) -> SourceAccess {
    SourceAccess {
        ca_bundle_pem: server.ca_pem.clone(),
        bearer_token: "secret-token".into(),
        ..SourceAccess::default()
    }
}
