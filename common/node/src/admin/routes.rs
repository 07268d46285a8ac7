//! Answers one admin request: the common routes first, then the process's own.

use std::sync::PoisonError;

use http::{Method, StatusCode};

use super::{Admin, Request, Response, body, text, written};

/// What Prometheus expects of this text format.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Admin {
    pub(super) async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/healthz") => text(StatusCode::OK, "alive\n"),
            (&Method::GET, "/readyz") => self.readiness(),
            (&Method::GET, "/metrics") => self.exposition(),
            (&Method::GET, "/config") => {
                let config = self.config.clone();
                written::json(move |to| config(to))
            }
            (&Method::GET, "/log-level") => text(StatusCode::OK, self.log_level.get() + "\n"),
            (&Method::PUT, "/log-level") => self.set_log_level(&request),
            (method, path) => match self.routes.iter().find(|r| r.method == method.as_str() && r.path == path) {
                Some(route) => (route.answer)(request).await,
                None => self.nothing_there(path),
            },
        }
    }

    fn readiness(&self) -> Response {
        let reasons = self.ready.borrow();
        if reasons.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }

    fn exposition(&self) -> Response {
        let mut out = String::new();
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        match prometheus_client::encoding::text::encode(&mut out, &metrics) {
            Ok(()) => body::response(StatusCode::OK, METRICS_TYPE, body::whole(out)),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics can't be written: {why}\n")),
        }
    }

    fn set_log_level(&self, request: &Request) -> Response {
        let filter = String::from_utf8_lossy(request.body());
        match self.log_level.set(&filter) {
            Ok(()) => text(StatusCode::OK, self.log_level.get() + "\n"),
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        }
    }

    fn nothing_there(&self, path: &str) -> Response {
        const COMMON: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/config", "/log-level"];
        let mut paths: Vec<&str> = COMMON.into_iter().chain(self.routes.iter().map(|r| r.path)).collect();
        paths.sort_unstable();
        paths.dedup();
        let status = if paths.contains(&path) { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
        text(status, format!("{}; there is {}\n", status, paths.join(" ")))
    }
}
