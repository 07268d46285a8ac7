//! States how much of a tunnel is read before others have their turn.

use std::{future::poll_fn, pin::Pin, task::Poll};

use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf, duplex};

use super::{AT_ONCE, Counted, Role};

/// WINDOW_UPDATE of one byte for the connection.
const WINDOW: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Eighty thousand may come before their sender is cut: were they handled in one poll, no turn would end it.
#[tokio::test]
async fn many_small_frames_are_not_read_in_one_go() {
    let (mut theirs, ours) = duplex(1 << 20);
    theirs.write_all(&WINDOW.repeat(5_000)).await.unwrap();
    let (mut counted, _carried) = Counted::new(ours, Role::Client);
    let (mut read, mut most, mut at_once) = (0, 0, 0);
    while read < 5_000 * WINDOW.len() {
        poll_fn(|cx| {
            let mut bytes = [0; 1024];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut counted).poll_read(cx, &mut buf) {
                Poll::Ready(went) => {
                    went.unwrap();
                    at_once += buf.filled().len();
                    read += buf.filled().len();
                }
                Poll::Pending => at_once = 0,
            }
            most = most.max(at_once);
            Poll::Ready(())
        })
        .await;
    }
    assert!(most <= AT_ONCE as usize * WINDOW.len() + 1024, "{most} bytes of small frames were read in one go");
}
