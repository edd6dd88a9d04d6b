//! Where a model is, as users write it.

use std::path::PathBuf;

use reqwest::Url;

use crate::failure::Failure;

/// A model's first or only file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local(PathBuf),
    /// On a server that speaks HTTPS.
    Remote {
        /// Where to get it.
        url: Url,
        /// What to write into the InferenceModel.
        uri: String,
    },
}

impl Place {
    /// Reads a path or URI. `hf_endpoint` is the server of `hf://` models.
    pub fn parse(text: &str, hf_endpoint: &str) -> Result<Self, Failure> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Local(text.into()));
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Local(rest.into())),
            "file" => Err(usage(
                text,
                "write file:// and an absolute path: file:///models/model.gguf",
            )),
            "https" => remote(text, text),
            "hf" => remote(&hugging_face(text, rest, hf_endpoint)?, text),
            "http" => Err(usage(text, "models are fetched over https:// alone")),
            "pvc" => Err(usage(
                text,
                "a claim is not mounted here: run this where it is, with the path of the file, and write the index beside it",
            )),
            "oci" => Err(usage(
                text,
                "make the index from the .gguf file before it is pushed, and push it as a layer beside the model",
            )),
            _ => Err(usage(
                text,
                "give a path, file:///…, https://… or hf://<org>/<repo>/<file>",
            )),
        }
    }
}

fn usage(text: &str, remedy: &str) -> Failure {
    Failure::Usage(format!("{text:?} cannot be indexed: {remedy}"))
}

fn remote(url: &str, uri: &str) -> Result<Place, Failure> {
    let url = Url::parse(url).map_err(|error| usage(uri, &format!("it is no URL ({error})")))?;
    if url.scheme() != "https" {
        return Err(usage(uri, "models are fetched over https:// alone"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            uri,
            "leave the password out of the address and give a token by --token",
        ));
    }
    Ok(Place::Remote {
        url,
        uri: uri.to_owned(),
    })
}

/// `hf://<org>/<repo>/<file>[@revision]` as the address that serves the file.
fn hugging_face(text: &str, rest: &str, endpoint: &str) -> Result<String, Failure> {
    let wrong = || usage(text, "write hf://<org>/<repo>/<file>.gguf, and @<revision> if need be");
    let (path, revision) = rest.rsplit_once('@').unwrap_or((rest, "main"));
    let mut parts = path.splitn(3, '/');
    let (Some(organisation), Some(repository), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let plain = |part: &str| !part.is_empty() && part.split('/').all(|step| !["", ".", ".."].contains(&step));
    if ![organisation, repository, file, revision].into_iter().all(plain) {
        return Err(wrong());
    }
    let endpoint = endpoint.trim_end_matches('/');
    // A revision such as refs/pr/1 is one part of the address.
    let revision = revision.replace('/', "%2F");
    Ok(format!(
        "{endpoint}/{organisation}/{repository}/resolve/{revision}/{file}"
    ))
}

#[cfg(test)]
mod tests;
