//! Files from the network: in pieces, each with a time limit, so that a download can be interrupted and goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
    time::Duration,
};

use ureq::{Agent, http::StatusCode};

use super::cache::digest;

/// Bytes that are asked for at once.
const PIECE: u64 = 16 << 20;
/// Bytes that no file of weights has.
const MOST: u64 = 16 << 30;
/// Failures of a piece in a row with which the download fails.
const ATTEMPTS: usize = 3;
/// Time that a piece may take; after a failure four times as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Downloads `url` to `path`, once its SHA-256 is known to begin with these hexadecimal digits.
///
/// A partial download is kept beside `path` with the ending `.part`. Of two programs at once, the second waits for the first.
pub(super) fn download(
    url: &str,
    sha256: &str,
    path: &Path,
    progress: impl FnMut(u64, Option<u64>),
) -> Result<(), String> {
    let config = Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .http_status_as_error(false)
        .https_only(true)
        .user_agent(concat!("segkiln/", env!("CARGO_PKG_VERSION")));
    download_by(&config.build().into(), PIECE, url, sha256, path, progress)
}

fn download_by(
    agent: &Agent,
    piece: u64,
    url: &str,
    sha256: &str,
    path: &Path,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<(), String> {
    let name = path.file_name().ok_or("the path has no file name")?;
    let part = path.with_file_name(format!("{}.part", name.display()));
    let unwritable = |error: io::Error| format!("cannot write {}: {error}", part.display());
    if path.is_file() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(unwritable)?;
    // What was linked there would be written over.
    if fs::symlink_metadata(&part).is_ok_and(|meta| !meta.is_file()) {
        return Err(format!("{} is no regular file; remove it", part.display()));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // Nor what is linked there from now on.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    let mut file = options.open(&part).map_err(unwritable)?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(format!("{} is no regular file; remove it", part.display()));
    }
    match file.lock() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(unwritable(error)),
        _ if path.is_file() => return Ok(()),
        _ => {}
    }

    let (mut failures, mut furthest) = (0, 0);
    let total = loop {
        let done = file.seek(SeekFrom::End(0)).map_err(unwritable)?;
        // A server that knows no pieces may need long.
        let patience = PATIENCE * 4u32.pow(failures as u32);
        let reason = match next_piece(agent, url, &mut file, done..done + piece, patience, &mut progress) {
            Ok(Piece { end, total }) if total.is_none_or(|total| end >= total) => break end,
            // One that begins anew and anew gets no further.
            Ok(Piece { end, .. }) if end > furthest => {
                (failures, furthest) = (0, end);
                continue;
            }
            Ok(Piece { end, .. }) => format!("cannot download: the server has twice sent {end} bytes"),
            Err(Failure::Final(reason)) => return Err(reason),
            Err(Failure::Passing(reason)) => reason,
        };
        failures += 1;
        if failures == ATTEMPTS {
            return Err(reason);
        }
    };
    file.sync_all().map_err(unwritable)?;
    let found = digest(&mut file).map_err(|error| format!("cannot read {}: {error}", part.display()))?;
    if !found.starts_with(sha256) {
        // The next attempt begins anew.
        file.set_len(0).map_err(unwritable)?;
        return Err(format!(
            "the {total} bytes from {url} have the SHA-256 {found}, which does not begin with {sha256}"
        ));
    }
    fs::rename(&part, path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Progress of a download after a piece.
struct Piece {
    /// Bytes of the file that are there.
    end: u64,
    /// Bytes of the whole file; None where the server does not say, and has sent everything.
    total: Option<u64>,
}

enum Failure {
    /// Another attempt may help.
    Passing(String),
    Final(String),
}

/// Appends the next bytes to the file, or all of them from a server that knows no pieces.
fn next_piece(
    agent: &Agent,
    url: &str,
    file: &mut File,
    bytes: Range<u64>,
    patience: Duration,
    progress: &mut impl FnMut(u64, Option<u64>),
) -> Result<Piece, Failure> {
    let passing = |error: &dyn std::fmt::Display| Failure::Passing(format!("cannot download: {error}"));
    let from = bytes.start;
    let range = format!("bytes={from}-{}", bytes.end - 1);
    let request = agent.get(url).config().timeout_recv_body(Some(patience)).build().header("Range", &range);
    let mut response = request.call().map_err(|error| passing(&error))?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let in_pieces = response.status() == StatusCode::PARTIAL_CONTENT;
    let (start, total) = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let whole = header("content-range").unwrap_or_default();
            let total = whole.rsplit_once('/').and_then(|(_, total)| total.parse().ok());
            if !whole.starts_with(&format!("bytes {from}-")) {
                return Err(Failure::Final(format!("the server answers {range} with {whole:?}")));
            }
            (from, Some(total.ok_or_else(|| Failure::Final(format!("the server answers {range} with {whole:?}")))?))
        }
        StatusCode::OK => (0, header("content-length").and_then(|length| length.parse().ok())),
        // What is there already is all of the file, or more.
        StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
            let total = header("content-range").and_then(|range| range.rsplit_once('/')?.1.parse().ok());
            if total == Some(from) {
                return Ok(Piece { end: from, total });
            }
            file.set_len(0).map_err(|error| Failure::Final(error.to_string()))?;
            return Err(passing(&"what was downloaded before is not of this file"));
        }
        status if status.is_server_error() => return Err(passing(&format!("the server says {status}"))),
        status => return Err(Failure::Final(format!("cannot download: the server says {status}"))),
    };
    if let Some(total @ MOST..) = total {
        return Err(Failure::Final(format!("the server has {total} bytes, more than {MOST}")));
    }
    let unwritable = |error: io::Error| Failure::Final(format!("cannot write what is downloaded: {error}"));
    file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start))).map_err(unwritable)?;
    let mut end = start;
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    let failure = loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break Some(error.to_string()),
        };
        end += count as u64;
        if end > total.unwrap_or(MOST) {
            return Err(Failure::Final(format!("the server sends more than {} bytes", total.unwrap_or(MOST))));
        }
        file.write_all(&buffer[..count]).map_err(unwritable)?;
        progress(end, total);
    };
    // A piece that is cut short is a smaller one; a whole file that is begins anew.
    let is_cut = failure.is_some() || total.is_some_and(|total| end < total);
    if is_cut && (end == from || !in_pieces) {
        let of = total.map_or(String::new(), |total| format!(" of {total}"));
        let failure = failure.unwrap_or_else(|| "the connection ended".into());
        return Err(passing(&format!("{failure} after {end}{of} bytes")));
    }
    Ok(Piece { end, total })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        net::{TcpListener, TcpStream},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use sha2::{Digest, Sha256};

    use super::*;

    /// Misbehavior of the server below.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Well,
        /// It knows no pieces.
        Whole,
        /// It ends each connection after so many bytes of the file.
        Cut(usize),
        /// As both.
        WholeCut(usize),
        /// It sends the beginning alone, and says of the rest that there is none.
        Beginning,
        /// It has no such file.
        Nothing,
        /// It fails this many times at first.
        Down(usize),
    }

    /// A server of one file, and how often it was asked.
    struct Server {
        url: String,
        asked: Arc<AtomicUsize>,
    }

    fn contents() -> Vec<u8> {
        (0..50_000u32).map(|i| (i * i % 251) as u8).collect()
    }

    fn sha256() -> String {
        Sha256::digest(contents()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn serve(way: Way) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/weights-00000000.pth", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), way, count.fetch_add(1, Ordering::SeqCst));
            }
        });
        Server { url, asked }
    }

    fn answer(mut stream: TcpStream, way: Way, earlier: usize) {
        let mut range = None;
        for line in BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
                let (from, to) = value.split_once('-').unwrap();
                range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap() + 1));
            }
        }
        let all = contents();
        let total = all.len();
        let (head, body, cut) = match (way, range) {
            (Way::Nothing, _) => ("404 Not Found".into(), Vec::new(), usize::MAX),
            (Way::Down(times), _) if earlier < times => ("503 Service Unavailable".into(), Vec::new(), usize::MAX),
            (Way::Whole, _) => ("200 OK".into(), all, usize::MAX),
            (Way::Beginning, Some((1.., _))) => ("416 Range Not Satisfiable".into(), Vec::new(), usize::MAX),
            (Way::WholeCut(cut), _) => ("200 OK".into(), all, cut),
            (_, Some((from, _))) if from >= total => {
                (format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{total}"), Vec::new(), usize::MAX)
            }
            (way, range) => {
                let (from, to) = range.unwrap();
                let to = to.min(total);
                let cut = if let Way::Cut(cut) = way { cut } else { usize::MAX };
                let head = format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", to - 1);
                (head, all[from..to].to_vec(), cut)
            }
        };
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..cut.min(body.len())]));
    }

    fn get(url: &str, sha256: &str, path: &Path, progress: impl FnMut(u64, Option<u64>)) -> Result<(), String> {
        // Whatever the machine's proxy is.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        download_by(&config.build().into(), 20_000, url, sha256, path, progress)
    }

    #[test]
    fn files_come_whole_whatever_the_server_does() {
        for (way, asked) in [(Way::Well, 3), (Way::Whole, 1), (Way::Cut(9000), 6), (Way::Down(2), 5)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new/weights.pth");
            let server = serve(way);
            let mut seen = 0;
            get(&server.url, &sha256()[..8], &path, |done, total| {
                assert!(done > seen && total == Some(50_000));
                seen = done;
            })
            .unwrap();
            assert_eq!(fs::read(&path).unwrap(), contents());
            assert_eq!((seen, server.asked.load(Ordering::SeqCst)), (50_000, asked));
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn what_has_come_is_not_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let [path, part] = ["weights.pth", "weights.pth.part"].map(|name| folder.path().join(name));
        for (length, asked) in [(10_000, 2), (50_000, 1)] {
            fs::write(&part, &contents()[..length]).unwrap();
            let server = serve(Way::Well);
            let mut first = None;
            get(&server.url, &sha256(), &path, |done, _| first = first.or(Some(done))).unwrap();
            assert!(first.is_none_or(|first| first > length as u64));
            assert_eq!(fs::read(&path).unwrap(), contents());
            assert_eq!(server.asked.load(Ordering::SeqCst), asked);
            fs::remove_file(&path).unwrap();
        }
        // Of another file, and longer than this one.
        fs::write(&part, vec![0; 60_000]).unwrap();
        get(&serve(Way::Well).url, &sha256(), &path, |_, _| {}).unwrap();
        assert_eq!(fs::read(&path).unwrap(), contents());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_linked_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let [path, part, other] = ["w.pth", "w.pth.part", "other"].map(|name| folder.path().join(name));
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &part).unwrap();
        let error = get(&serve(Way::Well).url, &sha256(), &path, |_, _| {}).unwrap_err();
        assert!(error.contains("w.pth.part is no regular file"), "{error}");
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn failures_leave_no_file_and_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.pth");
        let refused = |way, sha256: &str| {
            let error = get(&serve(way).url, sha256, &path, |_, _| {}).unwrap_err();
            assert!(!path.exists());
            error
        };
        assert!(refused(Way::Nothing, &sha256()).contains("404"));
        assert!(refused(Way::Down(9), &sha256()).contains("503"));
        assert!(refused(Way::WholeCut(30_000), &sha256()).contains("after 30000 of 50000 bytes"));
        assert!(refused(Way::Beginning, &sha256()).contains("cannot download"));
        let error = refused(Way::Well, "00000000");
        assert!(error.contains("does not begin with 00000000"), "{error}");
        // And the next attempt does not begin with what was wrong.
        get(&serve(Way::Well).url, &sha256(), &path, |_, _| {}).unwrap();
        // Nobody listens there.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let other = folder.path().join("other.pth");
        let error = get(&format!("http://{closed}/x"), "", &other, |_, _| {}).unwrap_err();
        assert!(error.contains("cannot download"), "{error}");
    }

    #[test]
    fn two_downloads_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.pth");
        let server = serve(Way::Cut(1000));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| get(&server.url, &sha256(), &path, |_, _| {}).unwrap());
            }
        });
        assert_eq!(fs::read(&path).unwrap(), contents());
        assert_eq!(server.asked.load(Ordering::SeqCst), 50);
    }
}
