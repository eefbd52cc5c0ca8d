use std::fs;

use super::*;

const WHOLE: &str = r#"{
    "info": {"year": 2014, "list": [[], {}, [{"a": "]}\"\\ NaN"}], NaN, -Infinity, -1.5e3, true, null]},
    "categories": [{"id": 3, "name": "c\u0061t", "supercategory": "animal"}, {"id": 90}],
    "annotations": [
        {"id": 12, "image_id": 7, "category_id": 90, "bbox": [1, 2.5, 0, -3e0], "area": 4.25, "iscrowd": 1,
         "segmentation": {"counts": [3, 2, 19], "size": [4, 6]}, "keypoints": [[1], {"2": "3"}]},
        {"category_id": 3, "id": 13.0, "image_id": "seven", "segmentation": {"size": [4, 6], "counts": "\\o"}},
        {"category_id": 3, "id": 14, "image_id": 7, "bbox": null, "iscrowd": false, "score": NaN,
         "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 4]]}
    ],
    "images": [{"id": "seven"}, {"id": 7, "file_name": "a.png", "width": 6.0, "height": 4}]
}"#;

/// Takes a text for an annotation file.
fn file(text: &str) -> Result<CocoFile> {
    CocoFile::parse(source::Source { path: "gt.json".into(), bytes: text.into(), finite: None })
}

/// Reads a text as a result file.
fn results(text: &str) -> Result<CocoResultFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dt.json");
    fs::write(&path, text).unwrap();
    CocoResultFile::read(path)
}

#[track_caller]
fn refused<T: fmt::Debug>(read: Result<T>, words: &[&str]) {
    let error = read.unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
}

#[test]
fn a_whole_file() {
    let file = file(WHOLE).unwrap();
    assert_eq!(file.categories()[0], CocoCategory { id: 3, name: "cat".into() });
    let [first, second, third] = file.annotations() else { panic!("{:?}", file.annotations()) };
    assert_eq!((first.id, &first.image_id, first.category_id, first.crowd), (12, &ImageId::Number(7), 90, true));
    assert_eq!((first.bbox, first.area), (Some([1.0, 2.5, 0.0, -3.0]), Some(4.25)));
    assert_eq!(file.mask(first).unwrap().unwrap().counts(), [3, 2, 19]);
    assert_eq!((second.id, &second.image_id, second.bbox, second.crowd), (13, &"seven".into(), None, false));
    assert_eq!(second.segmentation, Some(CocoSegmentation::Compressed { size: [4, 6], counts: "\\o".into() }));
    refused(file.mask(second), &["gt.json", "image \"seven\"", "`width`", "missing"]);
    assert_eq!(file.mask(third).unwrap().unwrap().area(), 4 + 1);
    let lists = file.annotations_by_image();
    assert_eq!([lists[0].as_slice(), lists[1].as_slice()], [[second].as_slice(), &[first, third]]);
    assert_eq!(file.size(&7.into()).unwrap(), (6, 4).into());
    refused(file.size(&8.into()), &["gt.json", "image 8"]);
}

#[test]
fn numbers_are_exact() {
    for text in ["0.1", "0.30000000000000004", "9007199254740993", "1.7976931348623157e308", "5e-324", "-0.0"] {
        let area = file(&WHOLE.replace("4.25", text)).unwrap().annotations()[0].area.unwrap();
        assert_eq!(area.to_bits(), text.parse::<f64>().unwrap().to_bits());
    }
}

#[test]
fn truncated_anywhere() {
    for end in 0..WHOLE.len() {
        if let Some(text) = WHOLE.get(..end) {
            assert!(file(text).is_err(), "read {text}");
        }
    }
    refused(file(&WHOLE[..300]), &["gt.json, line 5, column", "truncated"]);
}

/// Parsing a file with any one byte damaged must not panic; the file may still be valid.
#[test]
fn damaged_anywhere() {
    for at in 0..WHOLE.len() {
        for byte in [b'"', b'[', b']', b'{', b'}', b',', b':', b'\\', b'-', b'9', b' ', 0xff] {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[at] = byte;
            if let Ok(file) = CocoFile::parse(source::Source { path: "gt.json".into(), bytes, finite: None }) {
                for annotation in file.annotations() {
                    let _ = file.mask(annotation);
                }
            }
        }
    }
}

#[test]
fn no_file() {
    let folder = tempfile::tempdir().unwrap();
    refused(CocoFile::read(folder.path().join("gt.json")), &["cannot read", "gt.json"]);
    refused(CocoFile::read(folder.path()), &["not a regular file"]);
    fs::write(folder.path().join("gt.json"), "").unwrap();
    refused(CocoFile::read(folder.path().join("gt.json")), &["gt.json is empty"]);
    refused(file(""), &["gt.json, line 1", "truncated"]);
    for text in
        ["images", "[]", "7", "{}{}", "\u{feff}{}", "{\"images\": [1", "{\"images\" []}", "{\"images\": 5}", "{,}"]
    {
        refused(file(text), &["gt.json, line 1, column"]);
    }
    refused(file("{\"images\": []}"), &["gt.json", "`categories`", "missing"]);
    refused(file("{\"categories\": []}"), &["gt.json", "`images`", "missing"]);
    assert!(file(r#"{"images": [], "categories": []}"#).unwrap().annotations().is_empty());
    // A nest of brackets takes no stack.
    refused(file(&"[".repeat(1 << 20)), &["gt.json, line 1"]);
    refused(file(&format!("{{\"info\": {}", "[".repeat(1 << 20))), &["gt.json, line 1", "truncated"]);
    refused(results(&"[".repeat(1 << 20)), &["dt.json, line 1", "recursion limit"]);
    refused(results("{}"), &["dt.json, line 1", "expected a sequence"]);
}

#[test]
fn wrong_fields() {
    for (right, wrong, words) in [
        ("\"id\": 12, ", "", &["annotation number 0", "line 6", "missing field `id`"][..]),
        ("\"id\": 12", "\"id\": 1.5", &["annotation 1.5", "`id`", "whole number"]),
        ("\"image_id\": 7, \"category_id\": 90", "\"category_id\": 90", &["annotation 12", "missing field `image_id`"]),
        (
            "\"image_id\": 7, \"category_id\": 90",
            "\"image_id\": 8, \"category_id\": 90",
            &["annotation 12", "`image_id`", "8", "remove"],
        ),
        ("\"category_id\": 90", "\"category_id\": 91", &["annotation 12", "`category_id`", "91", "remove"]),
        ("2.5", "NaN", &["annotation 12", "`bbox[1]`", "NaN is not finite", "(line 5)"]),
        ("2.5", "-Infinity", &["annotation 12", "`bbox[1]`", "Infinity is not finite"]),
        ("2.5", "1e999", &["annotation 12", "`bbox[1]`", "out of range"]),
        ("2.5", "1e10", &["annotation 12", "`bbox`", "±1e9"]),
        ("2.5", "\"2.5\"", &["annotation 12", "`bbox[1]`", "expected f64"]),
        ("2.5, 0", "2.5", &["annotation 12", "`bbox`", "3 numbers"]),
        ("[1, 2.5, 0, -3e0]", "NaN", &["annotation 12", "`bbox`", "NaN is not finite"]),
        ("4.25", "NaN", &["annotation 12", "`area`", "NaN"]),
        ("4.25", "[]", &["annotation 12", "`area`", "expected f64"]),
        ("\"iscrowd\": 1", "\"iscrowd\": \"yes\"", &["annotation 12", "`iscrowd`", "true, false, 0 or 1"]),
        ("[3, 2, 19]", "[3, -2, 19]", &["annotation 12", "`segmentation.counts[1]`", "-2"]),
        ("[3, 2, 19]", "3", &["annotation 12", "`segmentation.counts`", "a string"]),
        ("\"counts\": [3, 2, 19], ", "", &["annotation 12", "`segmentation`", "missing field `counts`"]),
        (", \"size\": [4, 6]", "", &["annotation 12", "`segmentation`", "missing field `size`"]),
        ("[4, 6]}, \"key", "[4, 6, 1]}, \"key", &["annotation 12", "`segmentation`", "[height, width]"]),
        ("[4, 6]}, \"key", "[4, 5000000000]}, \"key", &["annotation 12", "`segmentation.size[1]`", "5000000000"]),
        ("\"\\\\o\"", "\"\\o\"", &["annotation number 1", "`segmentation.counts`", "escape"]),
        ("\"width\": 6.0", "\"width\": 0", &["image 7", "`width`", "0"]),
        ("\"width\": 6.0", "\"width\": -6", &["image 7", "`width`", "-6"]),
        ("\"width\": 6.0", "\"width\": 4000000000", &["image 7", "`width`", "4000000000x4"]),
        (
            "{\"id\": 90}",
            "{\"id\": 3, \"name\": \"dog\"}",
            &["category 3", "`id`", "\"cat\" and of \"dog\"", "id of its own"],
        ),
        ("\"id\": 90", "\"id\": \"dog\"", &["category \"dog\"", "`id`", "whole number"]),
        ("{\"id\": \"seven\"}", "{}", &["image number 0", "line 11", "missing field `id`"]),
        ("{\"id\": \"seven\"}", "\"seven\"", &["image number 0", "line 11", "expected struct CocoImage"]),
    ] {
        assert!(WHOLE.contains(right), "{right}");
        refused(file(&WHOLE.replacen(right, wrong, 1)), &[&["gt.json"], words].concat());
    }
}

#[test]
fn an_empty_list_is_no_mask() {
    let polygons = "[[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 4]]";
    assert!(WHOLE.contains(polygons));
    let file = file(&WHOLE.replacen(polygons, "[]", 1)).unwrap();
    let annotation = file.annotations().iter().find(|annotation| annotation.id == 14).unwrap();
    assert_eq!(annotation.segmentation, None);
}

#[test]
fn masks_of_another_size() {
    for (right, wrong, words) in [
        ("[4, 6]}, \"key", "[6, 4]}, \"key", &["annotation 12", "6x4", "4x6"][..]),
        ("[3, 2, 19]", "[3, 2, 19, 1]", &["annotation 12", "25 pixels"]),
        ("[3, 2, 19]", "[4000000000, 4000000000]", &["annotation 12", "8000000000 pixels"]),
        ("[3, 3, 5, 3, 5, 4]", "7", &["annotation 14", "must be polygons"]),
        ("[3, 3, 5, 3, 5, 4]", "[3, 3, 5, null]", &["annotation 14", "must be polygons"]),
        ("[[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 4]]", "[[3, 3, 5, 3]]", &["annotation 14", "three vertices"]),
        ("[3, 3, 5, 3, 5, 4]", "[3, 3, 5, 3, 5]", &["annotation 14", "polygon 1", "odd"]),
    ] {
        let file = file(&WHOLE.replacen(right, wrong, 1)).unwrap();
        let masks = file.annotations().iter().filter(|one| one.image_id == 7.into()).map(|one| file.mask(one));
        refused(masks.collect::<Result<Vec<_>>>(), &[&["gt.json", "`segmentation`"], words].concat());
    }
}

#[test]
fn parts_of_less_than_three_vertices_are_left_out() {
    for part in ["[3, 3, 5, 3]", "[3, 3]", "[]"] {
        let file = file(&WHOLE.replacen("[3, 3, 5, 3, 5, 4]", part, 1)).unwrap();
        let annotation = &file.annotations()[2];
        assert_eq!(file.mask(annotation).unwrap().unwrap().area(), 4, "{part}");
        assert_eq!(annotation.segmentation.as_ref().unwrap().degenerate_parts(), 1);
    }
}

#[test]
fn polygons_in_other_lists_are_understood() {
    const RIGHT: &str = "[[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 4]]";
    let mask = |text: &str| {
        let file = file(&WHOLE.replacen(RIGHT, text, 1)).unwrap();
        file.mask(&file.annotations()[2])
    };
    let square = mask("[[0, 0, 2, 0, 2, 2, 0, 2]]").unwrap();
    assert_eq!(square.as_ref().unwrap().area(), 4);
    for text in ["[0, 0, 2, 0, 2, 2, 0, 2]", "[[[0, 0], [2, 0], [2, 2], [0, 2]]]", "[[0, 0], [2, 0], [2, 2], [0, 2]]"] {
        assert_eq!(mask(text).unwrap(), square, "{text}");
    }
    assert_eq!(mask(&format!("[{RIGHT}]")).unwrap(), mask(RIGHT).unwrap());
    for text in ["[0, [2, 0]]", "[[[[0, 0]]]]", "[\"a\"]", "[true]", "[{\"a\": [1]}]"] {
        refused(mask(text), &["gt.json", "annotation 14", "`segmentation`", "polygons"]);
    }
}

#[test]
fn byte_order_marks_are_no_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gt.json");
    let wide =
        |order: fn(u16) -> [u8; 2]| format!("\u{feff}{WHOLE}").encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let marked = format!("\u{feff}{WHOLE}").into_bytes();
    for bytes in [marked, wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(CocoFile::read(&path).unwrap().annotations().len(), 3);
    }
    fs::write(&path, [0xff, 0xfe, 0x7b]).unwrap();
    refused(CocoFile::read(&path), &["gt.json, line 1", "UTF-16"]);
}

#[test]
fn all_references_to_nothing_are_listed() {
    let wrong = WHOLE
        .replace("\"category_id\": 90", "\"category_id\": 91")
        .replace("\"image_id\": 7, \"bbox\"", "\"image_id\": 8, \"bbox\"");
    let Err(DataError::Several { errors, more: 0 }) = file(&wrong) else { panic!("not several") };
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(text[0].contains("annotation 12") && text[1].contains("annotation 14"), "{text:?}");
}

#[test]
fn results_come_back() {
    let mask = Rle::from_fn(6, 4, |x, y| x > y).unwrap();
    let result = |image_id: ImageId, segmentation| CocoResult {
        image_id,
        category_id: 3,
        bbox: Some([0.1, 0.2, 1e-7, 0.30000000000000004]),
        score: 1.0 / 3.0,
        segmentation,
    };
    let all = [
        result(7.into(), None),
        result("a \"b\"\\c".into(), Some(CocoSegmentation::from(&mask))),
        result(8.into(), Some(CocoSegmentation::Polygons(vec![vec![0.0, 0.5, 2.0, 0.0, 2.0, 2.0]]))),
        CocoResult {
            bbox: None,
            ..result(9.into(), Some(CocoSegmentation::Runs { size: [4, 6], counts: vec![3, 2, 19] }))
        },
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dt.json");
    write_results(&path, &all).unwrap();
    let read = CocoResultFile::read(&path).unwrap();
    assert_eq!(read.results(), all);
    assert_eq!(read.mask(0, (6, 4).into()).unwrap(), None);
    assert_eq!(read.mask(1, (6, 4).into()).unwrap(), Some(mask));
    refused(read.mask(3, (4, 6).into()), &["dt.json", "result number 3", "`segmentation`"]);
    write_results(&path, &[]).unwrap();
    assert!(CocoResultFile::read(&path).unwrap().results().is_empty());
    // What JSON cannot hold is not written.
    let before = fs::read(&path).unwrap();
    refused(write_results(&path, &[CocoResult { score: f64::NAN, ..all[0].clone() }]), &["dt.json", "`score`"]);
    refused(
        write_results(&path, &[CocoResult { bbox: Some([f64::INFINITY; 4]), ..all[0].clone() }]),
        &["dt.json", "`bbox`"],
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn wrong_results() {
    let whole = r#"[{"image_id": 7, "category_id": 3, "score": 0.5}, {"image_id": 7, "category_id": 3, "score": 0.5}]"#;
    assert_eq!(results(whole).unwrap().results().len(), 2);
    for (right, wrong, words) in [
        ("\"score\": 0.5}]", "\"score\": NaN}]", &["result number 1", "`score`", "NaN"][..]),
        (", \"score\": 0.5}]", "}]", &["result number 1", "missing field `score`"]),
        (
            "\"category_id\": 3, \"score\": 0.5}]",
            "\"score\": 0.5}]",
            &["result number 1", "missing field `category_id`"],
        ),
        ("\"score\": 0.5}]", "\"score\": 0.5, \"bbox\": [1, 2, 3]}]", &["result number 1", "`bbox`", "3 numbers"]),
    ] {
        assert!(whole.contains(right), "{right}");
        refused(results(&whole.replace(right, wrong)), &[&["dt.json"], words].concat());
    }
}

#[test]
fn long_files_are_read_in_parts() {
    let many = 5000;
    let annotations: Vec<String> = (0..many)
        .map(|id| {
            format!(r#"{{"id": {id}, "image_id": 1, "category_id": 1, "bbox": [{id}, 0, 1, 1], "note": "{:60}"}}"#, "")
        })
        .collect();
    let text = |list: &[String]| {
        let list = list.join(",\n");
        format!(r#"{{"annotations": [{list}], "images": [{{"id": 1}}], "categories": [{{"id": 1}}]}}"#)
    };
    let whole = file(&text(&annotations)).unwrap();
    assert_eq!(whole.annotations().len(), many);
    assert!(whole.annotations().iter().enumerate().all(|(id, one)| one.id == id as i64));
    let mut wrong = annotations.clone();
    for id in [1700, 4100] {
        wrong[id] = wrong[id].replace("\"bbox\": [", "\"bbox\": [NaN, ");
    }
    refused(file(&text(&wrong)), &["2 problems", "annotation 1700", "`bbox[0]`", "(line 1701)"]);
    wrong[4200] = wrong[4200].replace("\"category_id\": 1, ", "");
    wrong[4300] = "[]".into();
    let Err(DataError::Several { errors, more: 0 }) = file(&text(&wrong)) else { panic!("not several") };
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    for (error, part) in
        shown.iter().zip(["annotation number 1700", "annotation 4100,", "annotation 4200,", "annotation number 4300"])
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(shown.len(), 4);
}
