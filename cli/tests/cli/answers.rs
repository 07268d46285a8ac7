//! Stands in for a process's admin socket: answers what a test says, on a thread that ends with the test's process.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

/// Answers `METHOD path?query body` with a text. Anything else is not found.
pub(crate) fn answer(run_dir: &Path, process: &str, answers: &[(&'static str, String)]) {
    let listener = UnixListener::bind(run_dir.join(format!("{process}-admin.sock"))).unwrap();
    let answers: BTreeMap<&str, String> = answers.iter().cloned().collect();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let asked = request(&stream);
            let (status, body) = match answers.get(asked.as_str()) {
                Some(body) => ("200 OK", body.as_str()),
                None => ("404 Not Found", "nothing there"),
            };
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
}

/// The method, path and body asked for.
fn request(stream: &UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let asked = first.trim_end_matches(" HTTP/1.1\r\n");
    format!("{asked} {}", String::from_utf8(body).unwrap()).trim_end().to_owned()
}
