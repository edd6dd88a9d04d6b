//! What people and machines do, each as a story that is run without a fault first.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde_json::json;

use crate::host::Life;
use crate::objects::{INSTALLATION, MODELS, uri};
use crate::world::{MODEL, NODE_BYTES, Shape, World, nodes};

/// A part of a story; what it returns in the end is why the world does not settle.
type Part<'w> = Pin<Box<dyn Future<Output = Result<(), String>> + 'w>>;

/// A story.
#[derive(Debug, Clone, Copy)]
pub struct Workflow {
    /// Its name.
    pub name: &'static str,
    /// The world that it begins with.
    pub shape: fn() -> Shape,
    /// What there is before it begins; no fault is injected here.
    pub before: fn(&mut World) -> Part<'_>,
    /// What happens.
    pub story: fn(&mut World) -> Part<'_>,
}

/// All of them.
pub static WORKFLOWS: [Workflow; 15] = [
    Workflow {
        name: "install and create",
        shape: Shape::default,
        before: |_| Box::pin(async { Ok(()) }),
        story: |world| {
            Box::pin(async {
                world.keep_operator(0, OPERATOR);
                world.ask_for("m", 1, 1);
                world.settle().await
            })
        },
    },
    Workflow {
        name: "create a second model",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.ask_for("n", 2, 1);
                world.settle().await
            })
        },
    },
    Workflow {
        name: "create what does not fit, and delete it",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.ask_for("n", 2, 1);
                world.ask_for("o", 3, 1);
                world.settle().await?;
                world.delete(MODEL, MODELS, "o");
                world.settle().await
            })
        },
    },
    Workflow {
        name: "scale to two replicas and back",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.patch(MODEL, MODELS, "m", &json!({ "spec": { "replicas": 2 } }));
                world.settle().await?;
                world.patch(MODEL, MODELS, "m", &json!({ "spec": { "replicas": 1 } }));
                world.settle().await
            })
        },
    },
    Workflow {
        name: "a node is lost, and comes back",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.set_life("node-a", Life::Down);
                world.settle().await?;
                world.set_life("node-a", Life::Up);
                world.settle().await
            })
        },
    },
    Workflow {
        name: "a device fails",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.report_device("node-b", NODE_BYTES, false);
                world.settle().await
            })
        },
    },
    Workflow {
        name: "a node is drained",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.patch("/v1/nodes", "", "node-a", &json!({ "spec": { "unschedulable": true } }));
                world.settle().await
            })
        },
    },
    Workflow {
        name: "delete",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.delete(MODEL, MODELS, "m");
                world.settle().await
            })
        },
    },
    Workflow {
        name: "delete and create anew under the same name",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.delete(MODEL, MODELS, "m");
                world.ask_for("m", 1, 1);
                world.settle().await
            })
        },
    },
    Workflow {
        name: "other weights",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.patch(MODEL, MODELS, "m", &json!({ "spec": { "source": { "uri": uri(2) } } }));
                world.settle().await
            })
        },
    },
    Workflow {
        name: "a model of higher priority takes the place",
        shape: || Shape {
            nodes: nodes(&["node-a", "node-b"]),
            ..Shape::default()
        },
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.ask_for("n", 2, 1);
                world.patch(MODEL, MODELS, "n", &json!({ "spec": { "priority": 10 } }));
                world.settle().await?;
                world.delete(MODEL, MODELS, "n");
                world.settle().await
            })
        },
    },
    Workflow {
        name: "the operator is upgraded",
        shape: || Shape {
            operators: 2,
            ..Shape::default()
        },
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.keep_operator(1, "operator-1");
                tokio::time::sleep(Duration::from_secs(3)).await;
                world.terminate_operator(0).await;
                world.settle().await?;
                world.patch(MODEL, MODELS, "m", &json!({ "spec": { "contextLength": 128 } }));
                world.settle().await
            })
        },
    },
    Workflow {
        name: "keys are made anew",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.kill_operator(0);
                world.delete("/v1/secrets", INSTALLATION, "shardwright-authority");
                world.delete("/v1/secrets", INSTALLATION, "shardwright-placement-key");
                world.keep_operator(0, OPERATOR);
                world.settle().await
            })
        },
    },
    Workflow {
        name: "another authority takes the place of the present one",
        shape: Shape::default,
        before: one_model,
        story: |world| {
            Box::pin(async {
                world.rotate_authority("2026-01-01T12:00:00Z").await?;
                world.settle().await
            })
        },
    },
    Workflow {
        name: "cards are reserved and given back",
        shape: || Shape {
            nodes: nodes(&["node-a", "node-b"]),
            cards: 2,
            ..Shape::default()
        },
        before: |_| Box::pin(async { Ok(()) }),
        story: |world| {
            Box::pin(async {
                world.keep_operator(0, OPERATOR);
                world.settle().await?;
                world.delete("/v1/pods", INSTALLATION, "shardwright-agent-node-a");
                // Longer than an agent that is replaced is away for.
                tokio::time::sleep(Duration::from_secs(330)).await;
                world.settle().await
            })
        },
    },
];

const OPERATOR: &str = "operator-0";

fn one_model(world: &mut World) -> Part<'_> {
    Box::pin(async {
        world.keep_operator(0, OPERATOR);
        world.ask_for("m", 1, 1);
        world.settle().await
    })
}
