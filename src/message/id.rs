//! Ids: UUIDv7 that carry the message's logical time and rise strictly, whatever the clock does.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use uuid::{Uuid, Variant};

use super::session::SessionId;
use super::timestamp::{Clock, Timestamp};

/// Random bytes read from the system at once: one call for 128 ids.
const POOL_BYTES: usize = 1024;

/// The id of a message: a UUIDv7. Ids order as their times do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u128);

/// The text is not a UUIDv7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUIDv7")]
pub struct InvalidId;

impl Id {
    /// The length of the textual form, in bytes.
    pub const TEXT_BYTES: usize = 36;

    /// The id of that time whose 62 random bits are the low ones of `random`.
    ///
    /// The microseconds within the millisecond are in `rand_a` as a fraction of 4096 (RFC 9562, 6.2, method 3), rounded
    /// up, so that [`Id::time`] returns them exactly.
    #[must_use]
    pub fn from_parts(time: Timestamp, random: u64) -> Self {
        let millis = u128::from(time.micros() / 1000);
        let fraction = u128::from(((time.micros() % 1000) * 4096).div_ceil(1000));
        let random = u128::from(random & (u64::MAX >> 2));
        Self((millis & ((1 << 48) - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)
    }

    /// The id of something that another program made: of that time, and the same for the same `name` every time.
    #[must_use]
    pub fn derived(time: Timestamp, name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self::from_parts(time, digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }

    /// The id that the same message gets in another session: there it is another message, of the same time.
    #[must_use]
    pub fn in_session(self, session: &SessionId) -> Self {
        Self::derived(self.time(), &format!("{session}\n{self}"))
    }

    /// An id shortly after this one, of the same time.
    fn shortly_after(self, random: u64) -> Self {
        const RANDOM_BITS: u128 = (1 << 62) - 1;
        let low = (self.0 & RANDOM_BITS) + 1 + u128::from(random & 0xffff);
        // Overflow goes over the variant's bits into the fraction, which rounds to the same microsecond.
        Self(((self.0 & !RANDOM_BITS) + ((low >> 62) << 64)) | (low & RANDOM_BITS))
    }

    /// The least id of that time: every id of this time or a later one is at least this.
    #[must_use]
    pub fn least_of(time: Timestamp) -> Self {
        Self::from_parts(time, 0)
    }

    /// Before every id: a client that resumes from it receives everything.
    pub const BEGINNING: Self = Self(0x7 << 76 | 0b10 << 62);

    /// After every id of a message.
    pub const END: Self = Self(!(0xf << 76 | 0b11 << 62) | 0x7 << 76 | 0b10 << 62);

    /// The bound just before this id; no message has it.
    #[must_use]
    pub fn just_before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The bound just after this id; no message has it.
    #[must_use]
    pub fn just_after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The time within the id.
    #[must_use]
    pub fn time(self) -> Timestamp {
        let millis = u64::try_from(self.0 >> 80).expect("48 bits fit");
        let fraction = u64::try_from(self.0 >> 64 & 0xfff).expect("12 bits fit");
        Timestamp::from_micros(millis * 1000 + fraction * 1000 / 4096)
    }

    /// The 16 bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From [`Id::to_bytes`].
    ///
    /// # Errors
    /// [`InvalidId`] when version or variant are not those of a UUIDv7.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, InvalidId> {
        let uuid = Uuid::from_bytes(bytes);
        if uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122 {
            Ok(Self(uuid.as_u128()))
        } else {
            Err(InvalidId)
        }
    }

    /// The textual form: lower-case, hyphenated.
    #[must_use]
    pub fn to_text(self) -> [u8; Self::TEXT_BYTES] {
        let mut text = [0; Self::TEXT_BYTES];
        Uuid::from_u128(self.0).hyphenated().encode_lower(&mut text);
        text
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != Self::TEXT_BYTES {
            return Err(InvalidId);
        }
        Self::from_bytes(Uuid::try_parse(text).map_err(|_| InvalidId)?.into_bytes())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.to_text()).expect("a UUID is ASCII"))
    }
}

/// How far another server's clock may be ahead of this one's: as far as that of imported ids, in microseconds.
const AHEAD_MICROS_MAX: u64 = 5 * 60 * 1_000_000;

/// Makes strictly rising ids: if the clock stands still or runs backward, the logical time advances by a microsecond.
///
/// The logical time runs ahead of the clock only beyond a million messages a second, until the clock catches up. At the
/// end of the year 9999 time stands still, and only the random bits rise.
#[derive(Debug)]
pub struct IdGenerator {
    clock: Clock,
    last: Timestamp,
    largest: Id,
    pool: Box<[u8; POOL_BYTES]>,
    used: usize,
}

impl IdGenerator {
    /// A generator whose ids are all greater than `largest`, the largest id given before.
    #[must_use]
    pub fn new(clock: Clock, largest: Option<Id>) -> Self {
        let largest = largest.unwrap_or(Id::least_of(Timestamp::from_micros(0)));
        Self { clock, last: largest.time(), largest, pool: Box::new([0; POOL_BYTES]), used: POOL_BYTES }
    }

    /// The next id.
    ///
    /// # Panics
    /// If the system has no random bytes, which does not happen on Linux after the boot.
    pub fn next_id(&mut self) -> Id {
        let now = self.clock.now();
        let next = if now > self.last { now } else { Timestamp::from_micros(self.last.micros() + 1) };
        let random = self.random();
        let time_stands = next == self.last;
        self.largest = if time_stands { self.largest.shortly_after(random) } else { Id::from_parts(next, random) };
        self.last = next;
        self.largest
    }

    /// The time of the last id: until the clock has passed it, later ids follow it by a microsecond each.
    #[must_use]
    pub fn last_time(&self) -> Timestamp {
        self.last
    }

    /// Follows another server's id: returns `id`, and every later id of this generator is greater. An id far ahead of
    /// the clock is not followed, because all later messages would get its time: then returns the next own id.
    ///
    /// # Panics
    /// See [`IdGenerator::next_id`].
    pub fn pass(&mut self, id: Id) -> Id {
        let own = self.next_id();
        if id > own {
            if id.time().micros() - own.time().micros() > AHEAD_MICROS_MAX {
                return own;
            }
            (self.last, self.largest) = (id.time(), id);
        }
        id
    }

    fn random(&mut self) -> u64 {
        if self.used == POOL_BYTES {
            getrandom::fill(&mut self.pool[..]).expect("the system gives random bytes");
            self.used = 0;
        }
        let bytes = self.pool[self.used..self.used + 8].try_into().expect("eight bytes");
        self.used += 8;
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn an_id_gives_back_its_time_to_the_microsecond() {
        for micros in (0..1000).map(|us| 1_764_292_425_123_000 + us) {
            let id = Id::from_parts(Timestamp::from_micros(micros), u64::MAX);
            assert_eq!(id.time().micros(), micros);
            assert_eq!(id.to_string().parse::<Id>(), Ok(id));
            assert_eq!(Id::from_bytes(id.to_bytes()), Ok(id));
            assert_eq!(&id.to_string()[14..15], "7");
        }
    }

    #[test]
    fn an_id_of_another_server_is_passed_unless_it_lies_far_ahead() {
        let now = 1_764_292_425_123_456;
        let mut ids = IdGenerator::new(Clock::fixed(Arc::new(AtomicU64::new(now))), None);
        let first = ids.next_id();
        let at = |micros| Id::from_parts(Timestamp::from_micros(micros), u64::MAX);
        for (passed, taken) in [(at(now - 9), true), (at(now + 1000), true), (at(now + 2 * AHEAD_MICROS_MAX), false)] {
            let up_to = ids.pass(passed);
            assert_eq!(up_to == passed, taken, "{passed}");
            assert!(taken || (up_to > first && up_to < passed), "{up_to}");
            let next = ids.next_id();
            assert!(next > up_to && next.time().micros() < now + 2000, "{next}");
        }
    }

    #[test]
    fn ids_rise_when_the_clock_stands_still_or_turns_back() {
        let now = Arc::new(AtomicU64::new(1_764_292_425_123_456));
        let mut ids = IdGenerator::new(Clock::fixed(now.clone()), None);
        let mut last = ids.next_id();
        for step in 0..5000 {
            if step == 2500 {
                now.fetch_sub(3_600_000_000, Ordering::Relaxed);
            }
            let id = ids.next_id();
            assert!(id > last && id.time() > last.time());
            last = id;
        }
        let mut after_restart = IdGenerator::new(Clock::fixed(now), Some(last));
        assert!(after_restart.next_id() > last);
    }

    #[test]
    fn ids_rise_when_time_can_rise_no_more() {
        let end = Timestamp::from_micros(u64::MAX);
        let clock = Clock::fixed(Arc::new(AtomicU64::new(end.micros() - 2)));
        let mut ids = IdGenerator::new(clock.clone(), None);
        let mut last = ids.next_id();
        for _ in 0..1000 {
            let id = ids.next_id();
            assert!(id > last && Id::from_bytes(id.to_bytes()) == Ok(id) && id.time() >= last.time());
            last = id;
        }
        assert_eq!(last.time(), end);
        // Even though all random bits are used up.
        let mut after_restart = IdGenerator::new(clock, Some(Id::from_parts(end, u64::MAX)));
        let next = after_restart.next_id();
        assert!(next > Id::from_parts(end, u64::MAX) && next.time() == end);
        assert_eq!(Id::from_bytes(next.to_bytes()), Ok(next));
    }

    #[test]
    fn only_version_seven_is_an_id() {
        for text in ["", "0", "c232ab00-9414-11ec-b3c8-9f6bdeced846", "017f22e279b07cc398c4dc0c0c07398f", "z"] {
            assert_eq!(text.parse::<Id>(), Err(InvalidId), "{text}");
        }
        assert!("017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse::<Id>().is_ok());
    }

    #[test]
    fn the_least_id_of_a_time_bounds_all_of_that_time() {
        let time = Timestamp::from_micros(1_764_292_425_123_456);
        let before = Id::from_parts(Timestamp::from_micros(1_764_292_425_123_455), u64::MAX);
        assert!(Id::least_of(time) <= Id::from_parts(time, 1));
        assert!(before < Id::least_of(time));
        assert_eq!(Id::BEGINNING, Id::least_of(Timestamp::from_micros(0)));
    }
}
