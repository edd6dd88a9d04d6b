//! The OpenAI-compatible endpoint: tokenise, remember, stream.
//!
//! ```text
//!  client ──HTTPS, key──▶ openai ──messages──▶ template ──text──▶ tokenizer (child) ──ids──▶ generate ──mTLS──▶ head
//!                           ▲                                                                  │
//!                           └────── text ◀── stop ◀── detokenise ◀── token ids ◀───────────────┘
//!
//!  operator ──▶ routes (who answers, signed) ──▶ vocabulary (by digest) ──▶ template, tokenizer
//! ```
//!
//! The gateway decides nothing about placement: it verifies what the operator signed and asks the heads that it names.

pub mod admin;
pub mod args;
pub mod context;
pub mod detokenise;
pub mod enrolment;
pub mod generate;
pub mod keys;
mod lines;
pub mod metrics;
pub mod occupancy;
pub mod openai;
pub mod routes;
pub mod run;
pub mod state_dir;
pub mod stop;
pub mod template;
pub mod tokenizer;
pub mod user_certificate;
pub mod vocabulary;
