//! Answers HTTP/2 by prior knowledge: 1 KiB to whatever is asked, as a gRPC message with its trailers where gRPC asks.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::TcpListener,
};

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, combinators::WithTrailers};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::BODY;

/// Streams at once in one connection: more than any load or proxy asks for.
const STREAMS: u32 = 1000;

type Trailers = Option<Result<HeaderMap, Infallible>>;
type Answer = WithTrailers<Full<Bytes>, Ready<Trailers>>;

/// Serves until the process ends, by one thread.
pub(super) fn serve(listener: TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (plain, message) = (Bytes::from(vec![b'm'; BODY]), message(&[b'm'; BODY]));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (plain, message) = (plain.clone(), message.clone());
            let answer = service_fn(move |request| answer(request, plain.clone(), message.clone()));
            // A load that has ended breaks its connections: nobody is left to be told.
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new())
                    .max_concurrent_streams(STREAMS)
                    .serve_connection(TokioIo::new(stream), answer),
            );
        }
    })
}

/// A gRPC message of these bytes, not compressed.
pub(crate) fn message(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(5 + bytes.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    message.put_slice(bytes);
    message.freeze()
}

/// Said once the request has come whole: a stream that ends before it does is reset, and a client that sees many of those gives up.
async fn answer(request: Request<Incoming>, plain: Bytes, message: Bytes) -> Result<Response<Answer>, hyper::Error> {
    let grpc = HeaderValue::from_static("application/grpc");
    let (body, kind, trailers) = match request.headers().get(CONTENT_TYPE) {
        Some(kind) if kind == grpc => {
            let status = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
            (message, grpc, Some(Ok(HeaderMap::from_iter([status]))))
        }
        _ => (plain, HeaderValue::from_static("text/plain"), None),
    };
    request.into_body().collect().await?;
    let mut response = Response::new(Full::new(body).with_trailers(ready(trailers)));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
