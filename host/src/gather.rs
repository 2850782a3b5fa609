//! Writing many pieces with few system calls.

use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes all of these pieces, in order. Of empty ones there must be none at the end.
pub(crate) async fn write_all<W>(writer: &mut W, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    while !pieces.is_empty() {
        match writer.write_vectored(pieces).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut pieces, written),
        }
    }
    Ok(())
}
