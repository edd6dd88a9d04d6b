//! `GET /v1/models`: what can be asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde_json::{Value, json};

use super::error::{ApiError, shortened};
use crate::context::Gateway;
use crate::routes::{Found, Model, Table};

/// All models, ready or not: a client that knows the id may wait for it.
///
/// # Errors
/// 503 before the first table.
pub async fn list(State(gateway): State<Arc<Gateway>>) -> Result<Json<Value>, ApiError> {
    let table = table(&gateway)?;
    let models: Vec<Value> = table.models().iter().map(|model| describe(&table, model)).collect();
    Ok(Json(json!({ "object": "list", "data": models })))
}

/// One model.
///
/// # Errors
/// 404 when there is none, 400 when the id is no text, 503 before the first table.
pub async fn one(
    State(gateway): State<Arc<Gateway>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id.map_err(|_| {
        let message = "the model's id in the path is not percent-encoded UTF-8; GET /v1/models lists the ids";
        ApiError::wrong_url(StatusCode::BAD_REQUEST, message)
    })?;
    let table = table(&gateway)?;
    let model = find(&table, &id)?;
    Ok(Json(describe(&table, &model)))
}

/// The models known now.
///
/// # Errors
/// 503 before the first table.
pub fn table(gateway: &Gateway) -> Result<Arc<Table>, ApiError> {
    gateway
        .table()
        .ok_or_else(|| ApiError::not_ready("this gateway has not heard from the operator yet; try again shortly"))
}

/// The model that `id` means.
///
/// # Errors
/// 404, or 400 when several namespaces have a model of this name.
pub fn find(table: &Table, id: &str) -> Result<Arc<Model>, ApiError> {
    match table.find(id) {
        Found::Model(model) => Ok(model),
        Found::None => Err(ApiError::model_not_found(id)),
        Found::Ambiguous => Err(ApiError::invalid(
            "model",
            format!(
                "several namespaces have a model {:?}; name it as <namespace>/<name>",
                shortened(id)
            ),
        )),
    }
}

fn describe(table: &Table, model: &Model) -> Value {
    let id = table.public_id(model);
    json!({ "id": id, "object": "model", "created": model.created_unix_s, "owned_by": model.namespace })
}
