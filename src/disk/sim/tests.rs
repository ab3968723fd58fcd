//! The simulated disk forgets, fails and hangs as it says.

use super::*;

const PATH: &str = "/d/a";

fn written(bytes: &[u8]) -> (SimDisk, SimFile) {
    let disk = SimDisk::default();
    let file = disk.create(Path::new(PATH)).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk) -> Vec<u8> {
    crate::disk::read(disk, Path::new(PATH)).unwrap()
}

#[test]
fn what_was_synced_outlives_every_power_cut_and_what_was_not_only_some() {
    let mut left = [0; 2];
    for seed in 0..64 {
        let (disk, file) = written(b"synced");
        file.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(b"unsynced", 6).unwrap();
        disk.power_cut(&mut Random(seed));
        let content = content(&disk);
        assert!(content.starts_with(b"synced"), "seed {seed}");
        left[usize::from(content.len() == 14)] += 1;
    }
    assert!(left.iter().all(|&count| count > 8), "{left:?}");
}

#[test]
fn a_name_that_was_not_synced_may_be_gone_after_a_power_cut() {
    let kept = (0..64).filter(|&seed| {
        let (disk, file) = written(b"x");
        file.sync().unwrap();
        disk.power_cut(&mut Random(seed));
        !disk.paths().is_empty()
    });
    assert!((8..56).contains(&kept.count()));
}

#[test]
fn a_failed_sync_of_the_whole_disk_is_told_once_to_every_open_file() {
    let (disk, file) = written(b"lost");
    let other = disk.open(Path::new(PATH)).unwrap();
    disk.fault_at(disk.calls() + 1, Fault::Fail(io::ErrorKind::Other));
    assert!(disk.sync_all(Path::new("/d")).is_err());
    let later = disk.open(Path::new(PATH)).unwrap();
    assert!(later.sync().is_ok(), "what was lost before it was opened is none of its business");
    for file in [file, other] {
        assert!(file.sync().is_err());
        assert!(file.sync().is_ok());
    }
}

#[test]
fn a_lasting_fault_hits_one_kind_of_call_on_some_files_until_healed() {
    let (disk, file) = written(b"x");
    let other = disk.create(Path::new("/d/b")).unwrap();
    disk.fail_every(Op::Write, "/d/a", io::ErrorKind::StorageFull);
    for _ in 0..3 {
        assert_eq!(file.write_all_at(b"y", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        other.write_all_at(b"y", 0).unwrap();
        file.sync().unwrap();
    }
    disk.heal();
    file.write_all_at(b"y", 0).unwrap();
}

#[test]
fn lost_sectors_cannot_be_read_and_the_rest_can() {
    let (disk, file) = written(&[7; 100]);
    disk.lose_sectors(Path::new(PATH), 40..50);
    let mut to = [0; 20];
    for (offset, lost) in [(0, false), (20, false), (21, true), (49, true), (50, false), (99, false)] {
        let read = file.read_at(&mut to, offset);
        assert_eq!(read.err().and_then(|e| e.raw_os_error()), lost.then_some(5), "at {offset}");
    }
}

#[test]
fn a_call_that_hangs_hangs_alone_and_goes_on_when_it_is_released() {
    let (disk, file) = written(b"x");
    disk.stall(Op::Sync, "/d/a");
    std::thread::scope(|scope| {
        let hangs = scope.spawn(|| file.sync());
        disk.wait_until_stalled();
        assert_eq!(content(&disk), b"x");
        assert!(!hangs.is_finished());
        disk.release();
        assert!(hangs.join().unwrap().is_ok());
    });
}
