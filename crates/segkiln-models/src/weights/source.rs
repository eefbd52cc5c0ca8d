//! Files of tensors: PyTorch's archives of any age, `.safetensors`, and either in shards.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Component, Path},
    sync::Arc,
};

use burn::tensor::DType;
use pytorch_reader::PytorchReader;
use safetensors::SafeTensors;
use serde::Deserialize;
use tempfile::NamedTempFile;

/// Bytes of a file that is read whole.
const MOST: u64 = 16 << 30;
/// Bytes of a list of shards.
const MOST_OF_INDEX: u64 = 64 << 20;

/// A tensor of a file, not yet read.
pub(super) struct Stored {
    pub shape: Vec<usize>,
    pub dtype: DType,
    /// The channels that a convolution's weights are brought to.
    pub channels: Option<usize>,
    pub read: Box<dyn Fn() -> Result<Vec<u8>, String>>,
}

/// The tensors of a file.
pub(super) struct Source(pub BTreeMap<String, Stored>);

impl Source {
    pub fn open(path: &Path) -> Result<Self, String> {
        // Asked before the file is opened: to open a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !meta.is_file() {
            return Err("it is no file".into());
        }
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(512).read_to_end(&mut start)).map_err(|error| error.to_string())?;
        if start.len() < 9 {
            return Err("the file is cut short: it has less than nine bytes".into());
        }
        // A few bytes of a sparse TAR stand for any number of zeros, all of which would be read.
        if start.get(257..262) == Some(b"ustar") && !start.starts_with(b"PK") {
            return Err("it is a TAR archive of PyTorch before 0.1.10; load it in PyTorch and save it again".into());
        }
        let is_index =
            path.extension().is_some_and(|extension| extension == "json") && start.trim_ascii_start()[0] == b'{';
        if is_index {
            return Self::shards(path, meta.len());
        }
        if start[8] != b'{' {
            return Self::pickle(path);
        }
        match meta.len() {
            bytes if bytes > MOST => Err(format!("it has {bytes} bytes, more than {MOST}")),
            _ => Self::safetensors(path),
        }
    }

    /// Hugging Face's `*.index.json`, which says in which file beside it each tensor is.
    fn shards(path: &Path, bytes: u64) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        if bytes > MOST_OF_INDEX {
            return Err(format!("it has {bytes} bytes, more than {MOST_OF_INDEX}"));
        }
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| format!("as a list of shards: {error}"))?;
        let mut files: BTreeMap<&str, Self> = BTreeMap::new();
        for file in index.weight_map.values() {
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || file.ends_with(".json") {
                return Err(format!("{file:?} is no file of tensors beside it"));
            }
            if !files.contains_key(file.as_str()) {
                let shard = Self::open(&path.with_file_name(file)).map_err(|error| format!("shard {file}: {error}"))?;
                files.insert(file, shard);
            }
        }
        let mut tensors = BTreeMap::new();
        for (name, file) in &index.weight_map {
            let tensor = files.get_mut(file.as_str()).and_then(|shard| shard.0.remove(name));
            tensors.insert(name.clone(), tensor.ok_or_else(|| format!("shard {file} has no {name}"))?);
        }
        Ok(Self(tensors))
    }

    fn safetensors(path: &Path) -> Result<Self, String> {
        let bytes: Arc<[u8]> = std::fs::read(path).map_err(|error| error.to_string())?.into();
        let file = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
        let start = bytes.as_ptr() as usize;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let dtype = match view.dtype() {
                safetensors::Dtype::F64 => DType::F64,
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::F16 => DType::F16,
                safetensors::Dtype::BF16 => DType::BF16,
                _ => DType::I64,
            };
            let at = view.data().as_ptr() as usize - start;
            let (bytes, range) = (bytes.clone(), at..at + view.data().len());
            let read = Box::new(move || Ok(bytes[range.clone()].to_vec()));
            tensors.insert(name.into(), Stored { shape: view.shape().to_vec(), dtype, channels: None, read });
        }
        Ok(Self(tensors))
    }

    fn pickle(path: &Path) -> Result<Self, String> {
        use pytorch_reader::DType as Torch;
        // Kept until the last tensor has been read.
        let copy = without_gap(path).map_err(|error| error.to_string())?.map(Arc::new);
        let reader =
            PytorchReader::new(copy.as_ref().map_or(path, |copy| copy.path())).map_err(|error| error.to_string())?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in reader.into_tensors() {
            let dtype = match tensor.dtype() {
                Torch::F64 => DType::F64,
                Torch::F32 => DType::F32,
                Torch::F16 => DType::F16,
                Torch::BF16 => DType::BF16,
                // Counters, which no network here has.
                _ => DType::I64,
            };
            let shape = tensor.shape().to_vec();
            let copy = copy.clone();
            let read = Box::new(move || {
                let _kept = &copy;
                tensor.read().map_err(|error| error.to_string())
            });
            tensors.insert(name, Stored { shape, dtype, channels: None, read });
        }
        Ok(Self(tensors))
    }
}

/// A copy of an archive that the reader would misread; none where it would not.
///
/// PyTorch writes records for more than 4 GiB between an archive's directory and its end, also into smaller archives, which do
/// not use them. `zip` 9.8 takes the end minus the directory's size for the directory's start; where an entry begins there, as
/// the second does after a first of those records' 76 bytes, it does not look further. The copy has no such records.
fn without_gap(path: &Path) -> io::Result<Option<NamedTempFile>> {
    /// Bytes of the last record of an archive without a comment.
    const END: u64 = 22;
    const ENTRY: [u8; 4] = *b"PK\x01\x02";
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(end_at) = length.checked_sub(END) else { return Ok(None) };
    let mut end = [0; END as usize];
    file.seek(SeekFrom::Start(end_at))?;
    file.read_exact(&mut end)?;
    let number = |at: usize| u64::from(u32::from_le_bytes([end[at], end[at + 1], end[at + 2], end[at + 3]]));
    let (size, start) = (number(12), number(16));
    let gap = end_at.saturating_sub(start + size);
    if !end.starts_with(b"PK\x05\x06") || gap == 0 || [size, start].contains(&u32::MAX.into()) {
        return Ok(None);
    }
    for at in [start, start + gap] {
        let mut magic = [0; 4];
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(&mut magic) {
            Ok(()) if magic == ENTRY => {}
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let mut copy = NamedTempFile::new()?;
    file.seek(SeekFrom::Start(0))?;
    io::copy(&mut file.take(start + size), &mut copy)?;
    copy.write_all(&end)?;
    copy.flush()?;
    Ok(Some(copy))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive as `torch.save` writes it of `{"w": tensor([1., 2.])}`, with `STEM` for the name of its folder.
    fn archive(stem: &str) -> Vec<u8> {
        let pickle: &[u8] = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x02tq\x07QK\x00K\x02\x85q\x08K\x01\x85q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.";
        let values = [1f32, 2.0].map(f32::to_le_bytes).concat();
        let entries: [(&str, &[u8]); 3] = [("data.pkl", pickle), ("data/0", &values), ("version", b"3\n")];
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for (name, content) in entries {
            let name = format!("{stem}/{name}");
            let size = (content.len() as u32).to_le_bytes();
            let offset = (bytes.len() as u32).to_le_bytes();
            let length = (name.len() as u16).to_le_bytes();
            // Version, flags, method, time, date; a checksum of 0 is not looked at.
            let common = [&[0u8; 10][..], &[0; 4], &size, &size, &length, &[0, 0]].concat();
            bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
            directory.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &offset, name.as_bytes()].concat());
        }
        let start = bytes.len() as u64;
        let size = directory.len() as u64;
        bytes.extend(directory);
        let big_end = bytes.len() as u64;
        let count = 3u64.to_le_bytes();
        bytes.extend([&b"PK\x06\x06"[..], &44u64.to_le_bytes(), &[0; 12], &count, &count].concat());
        bytes.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
        bytes.extend([&b"PK\x06\x07\0\0\0\0"[..], &big_end.to_le_bytes(), &[1, 0, 0, 0]].concat());
        let short = 3u16.to_le_bytes();
        bytes.extend([&b"PK\x05\x06\0\0\0\0"[..], &short, &short].concat());
        bytes.extend([(size as u32).to_le_bytes(), (start as u32).to_le_bytes()].concat());
        bytes.extend([0, 0]);
        bytes
    }

    #[test]
    fn archives_are_read_whatever_the_length_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        for length in 1..=200 {
            let stem = "n".repeat(length);
            let path = folder.path().join(format!("{stem}.pth"));
            std::fs::write(&path, archive(&stem)).unwrap();
            let source = Source::open(&path).unwrap_or_else(|error| panic!("{length}: {error}"));
            let tensor = &source.0["w"];
            assert_eq!((tensor.shape.as_slice(), tensor.dtype), (&[2][..], DType::F32));
            assert_eq!((tensor.read)().unwrap(), [1f32, 2.0].map(f32::to_le_bytes).concat(), "{length}");
            assert_eq!(without_gap(&path).unwrap().is_some(), length == 21);
        }
    }

    #[test]
    fn tar_archives_are_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.pth");
        let mut bytes = vec![0; 1536];
        bytes[257..262].copy_from_slice(b"ustar");
        std::fs::write(&path, bytes).unwrap();
        assert!(Source::open(&path).err().unwrap().contains("TAR"));
    }

    #[test]
    fn shards_are_read_together() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let tensor = |value: f32| burn::tensor::TensorData::from([value]);
        for (file, name, value) in [("a.safetensors", "x", 1.0), ("b.safetensors", "y", 2.0)] {
            super::super::save_safetensors(vec![(name.into(), tensor(value))], &at(file)).unwrap();
        }
        let index = |map: &str| {
            std::fs::write(
                at("model.safetensors.index.json"),
                format!("{{\"metadata\": {{}}, \"weight_map\": {map}}}"),
            )
            .unwrap();
            Source::open(&at("model.safetensors.index.json"))
        };
        let both = index(r#"{"x": "a.safetensors", "y": "b.safetensors"}"#).unwrap();
        assert_eq!((both.0["y"].read)().unwrap(), 2f32.to_le_bytes());
        for (map, part) in [
            (r#"{"x": "c.safetensors"}"#, "shard c.safetensors: "),
            (r#"{"z": "a.safetensors"}"#, "shard a.safetensors has no z"),
            (r#"{"x": "../a.safetensors"}"#, "beside it"),
            (r#"{"x": "model.safetensors.index.json"}"#, "beside it"),
            ("3", "list of shards"),
        ] {
            let error = index(map).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
