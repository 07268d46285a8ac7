//! Lives one connection that came in plain text from where nobody is attested: refused, or let in as a caller without identity.

use std::{net::SocketAddr, sync::Arc};

use millrace_model::{Facts, port};
use tokio::net::TcpStream;

use crate::{
    accept::Accepted,
    application::{self, Called},
    copy,
    dial::{Connected, tune},
    fault::Why,
    handshakes::Caller,
    metrics::Direction,
    record::{Party, Record},
    worker::Worker,
};

/// A connection that the kernel steered to the plaintext listener.
pub(crate) async fn serve(worker: Arc<Worker>, mut accepted: Accepted, socket: TcpStream) {
    let client = SocketAddr::new(accepted.peer.ip().to_canonical(), accepted.peer.port());
    let mut record = Record::begin(worker.proxy.clone(), Direction::Plaintext, Party::at(client));
    record.target.workload = Some(accepted.home.pod.name.to_string());
    tune(&socket);
    let ended = match open(&worker, &accepted, &socket, client, &mut record).await {
        Ok((called, Connected { socket: target, held })) => {
            record.carrying();
            accepted.pending = None;
            let waits = Arc::new(accepted.account.waits(Caller::at(&worker.proxy.current(), client.ip())));
            let stop = application::denied_or_gone(&worker.proxy, &accepted.home, called);
            let ended = Box::pin(copy::between_sockets(socket, target, (&record.carried.clone(), &waits), stop)).await;
            drop(held);
            ended
        }
        Err(why) => {
            drop(socket);
            Err(why)
        }
    };
    record.end(ended);
}

/// The application, dialled, where it hears plain text and policy lets a caller without identity in.
async fn open(
    worker: &Worker,
    accepted: &Accepted,
    socket: &TcpStream,
    client: SocketAddr,
    record: &mut Record,
) -> Result<(Called, Connected), Why> {
    let mesh = worker.proxy.current();
    let workload = accepted.home.pod.workload(&mesh)?;
    let local = socket.local_addr().map_err(|_broken| Why::ClientReset)?;
    let target = SocketAddr::new(local.ip().to_canonical(), local.port());
    record.target = Party::of(workload, target);
    // Steered connections keep the address that they were sent to; the listener's own means that nobody steered it.
    if !workload.addresses.contains(&target.ip()) || port::is_mesh(target.port()) {
        return Err(Why::OwnListener);
    }
    let facts = Facts { identity: None, address: client.ip(), port: target.port() };
    application::authorized_plaintext(&mesh, workload, &facts)?;
    let connected = application::dial_shown(&worker.proxy, &accepted.home, target, client).await?;
    Ok((Called::Unknown(facts), connected))
}
