//! What serves the URLs of `FileBlobs` in tests, as the edge will, and a client that sends exactly what it is told.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{
    Request, Response,
    body::{Body as HttpBody, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ringforge_adapters::blobs::file::{Download, FileBlobs, Grant, Header, Refused};
use ringforge_ports::{
    Error,
    blobs::{Body, Signed},
    contract::blobs::Answer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What is served: replaced when the store is opened again.
pub type Served = Arc<Mutex<Option<Arc<FileBlobs>>>>;

/// The answer to a request.
pub async fn serve(
    blobs: &FileBlobs,
    method: &str,
    path_and_query: &str,
    header: Header<'_>,
    body: Body,
) -> Result<Download, Refused> {
    match blobs.authorize(method, path_and_query, header)? {
        Grant::Upload { key, head } => {
            blobs.write(&key, &head, body).await?;
            Ok(Download { status: 200, headers: Vec::new(), body: stream::empty().boxed() })
        }
        Grant::Download { key, disposition } => blobs.read(&key, disposition, header("range")).await,
    }
}

/// The same as one answer.
pub async fn answer(
    blobs: &FileBlobs,
    method: &str,
    path_and_query: &str,
    header: Header<'_>,
    body: Body,
) -> Result<Answer, Error> {
    let download = match serve(blobs, method, path_and_query, header, body).await {
        Ok(download) => download,
        Err(refused) => {
            return Ok(Answer { status: refused.status(), headers: Vec::new(), body: refused.to_string().into() });
        }
    };
    let pieces: Vec<Bytes> = download.body.try_collect().await?;
    let headers = download.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Answer { status: download.status, headers, body: pieces.concat() })
}

/// Serves on a free port until the runtime ends.
pub async fn listen(served: Served) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let served = Arc::clone(&served);
            let service = service_fn(move |request| {
                let blobs = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
                async move { Ok::<_, Infallible>(respond(&blobs.expect("a store is open"), request).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    address
}

async fn respond(blobs: &FileBlobs, request: Request<Incoming>) -> Response<Streamed> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    match serve(blobs, parts.method.as_str(), path, &header, received(body)).await {
        Ok(Download { status, headers, body }) => {
            let response = headers
                .into_iter()
                .fold(Response::builder().status(status), |all, (name, value)| all.header(name, value));
            response.body(Streamed(body)).expect("a response")
        }
        Err(refused) => {
            let text = stream::iter([Ok(Bytes::from(refused.to_string()))]).boxed();
            Response::builder().status(refused.status()).body(Streamed(text)).expect("a response")
        }
    }
}

/// The body of a request.
fn received(body: Incoming) -> Body {
    let frames = stream::unfold(body, |mut body| async move {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await?;
        let piece = frame.map_err(|error| Error::Unavailable(error.to_string()));
        Some((piece.map(|frame| frame.into_data().unwrap_or_default()), body))
    });
    frames.boxed()
}

/// The body of an answer.
struct Streamed(Body);

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_next_unpin(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Sends a request as it is, and nothing more, over a connection of its own.
pub async fn send(request: &Signed, body: &[u8]) -> Answer {
    let rest = request.url.strip_prefix("http://").expect("a URL without TLS");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut socket = TcpStream::connect(host).await.expect("a server");
    let mut head = format!("{} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", request.method);
    head.extend(request.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    // Who refuses need not read the body.
    let _ = socket.write_all(&[head.as_bytes(), body].concat()).await;
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer).await;
    assert!(read.is_ok() || !answer.is_empty(), "no answer: {read:?}");
    parse(&answer)
}

fn parse(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Answer { status, headers, body: answer[end + 4..].to_vec() }
}
