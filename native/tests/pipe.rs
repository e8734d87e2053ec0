//! The rings between two threads, run for real. `tests/rings.rs` checks the order of their memory accesses by a model.

#![allow(clippy::unwrap_used, reason = "tests")]

use shardloop_native::pipe::{Writer, pipe};

fn put(writer: &mut Writer, bytes: &[u8]) -> bool {
    writer.write([bytes.len() as i32, 0, 0, 0], bytes)
}

#[test]
fn entries_come_out_as_they_went_in_whatever_their_sizes() {
    let (mut writer, mut reader) = pipe(64, 1024).unwrap();
    let (mut sent, mut read) = (0usize, 0usize);
    let content =
        |number: usize| -> Vec<u8> { (0..(number * 37) % 300).map(|at| (number * 7 + at) as u8).collect() };
    let mut full = 0;
    for step in 0..20_000 {
        // Bursts of both sides, out of step with each other, so that the rings are full, empty and wrapped.
        if (step / 50) % 3 != 2 {
            if put(&mut writer, &content(sent)) {
                sent += 1;
            } else {
                full += 1;
            }
            writer.publish();
        }
        if (step / 70) % 2 == 1 {
            let count = reader.len().min(1 + step % 5);
            for index in 0..count {
                let (words, bytes) = reader.get(index);
                let expected = content(read);
                assert_eq!((words[0] as usize, bytes), (expected.len(), &expected[..]));
                read += 1;
            }
            reader.advance(count);
            reader.release();
        }
    }
    assert!(full > 100 && read > 1_000 && sent - read <= 64, "{full} {read} {sent}");
}

#[test]
fn nothing_is_seen_before_it_is_published_and_no_room_comes_before_it_is_given_back() {
    let (mut writer, mut reader) = pipe(2, 128).unwrap();
    assert!(put(&mut writer, &[1; 64]));
    assert!(reader.is_empty());
    assert!(writer.publish() && !writer.publish());
    assert_eq!(reader.len(), 1);
    assert!(put(&mut writer, &[2; 64]));
    assert!(!put(&mut writer, &[3; 1]), "neither an entry nor bytes are left");
    writer.publish();
    reader.advance(1);
    assert!(!put(&mut writer, &[3; 1]), "what was read is not given back yet");
    assert!(reader.release() && !reader.release());
    assert_eq!(writer.room(), 1);
    assert!(writer.space(1, 64).is_none(), "the ring would look empty");
    assert_eq!(reader.len(), 1);
    assert_eq!(reader.get(0).1, [2; 64]);
    reader.advance(1);
    reader.release();
    assert!(writer.is_drained());
    assert_eq!(writer.space(1, 4096).map(|space| space.len()), Some(128), "it begins at the start again");
}

#[test]
fn two_threads_pass_a_million_entries() {
    let (mut writer, mut reader) = pipe(256, 16 << 10).unwrap();
    let thread = std::thread::spawn(move || {
        for number in 0..1_000_000u32 {
            while !writer.write([number as i32, 0, 0, 0], &number.to_le_bytes()) {
                writer.publish();
                std::thread::yield_now();
            }
            if number % 7 == 0 {
                writer.publish();
            }
        }
        writer.publish();
    });
    let mut expected = 0u32;
    while expected < 1_000_000 {
        let count = reader.len();
        for index in 0..count {
            let (words, bytes) = reader.get(index);
            assert_eq!((words[0] as u32, bytes), (expected, &expected.to_le_bytes()[..]));
            expected += 1;
        }
        reader.advance(count);
        if !reader.release() {
            std::thread::yield_now();
        }
    }
    thread.join().expect("the writer ends");
}
