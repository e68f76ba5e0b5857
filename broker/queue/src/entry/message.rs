//! Entry buffers and the messages that live in them.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{EntryBuilder, NewMessage};
use super::{FLAG_EXPIRATION, FLAG_PERSISTENT, MESSAGE_HEADER, u16_at, u32_at, u64_at};

/// Counts the bytes of entries in memory, for the memory budget, and keeps a few emptied buffers for the next ones: at full
/// speed an entry is made by one thread and let go by another thousands of times a second, which allocators answer with
/// memory that they do not give back.
#[derive(Debug, Default)]
pub struct MemoryGauge {
    bytes: AtomicI64,
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Buffers from this size on are kept.
const SPARE_BYTES_MIN: usize = 16 << 10;
/// And up to this size.
const SPARE_BYTES_MAX: usize = 512 << 10;
/// How many.
const SPARES_MAX: usize = 8;

impl MemoryGauge {
    /// Bytes now held.
    pub fn bytes(&self) -> i64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// An empty buffer of about `bytes`: one that was used before, if there is one.
    pub fn take_buffer(&self, bytes: usize) -> Vec<u8> {
        if bytes >= SPARE_BYTES_MIN
            && let Ok(mut spare) = self.spare.lock()
            && let Some(buffer) = spare.pop()
        {
            return buffer;
        }
        Vec::with_capacity(bytes)
    }

    /// Keeps an emptied buffer, or lets it go.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        if (SPARE_BYTES_MIN..=SPARE_BYTES_MAX).contains(&buffer.capacity())
            && let Ok(mut spare) = self.spare.lock()
            && spare.len() < SPARES_MAX
        {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

enum Data {
    Owned(Vec<u8>, Option<Arc<MemoryGauge>>),
    Shared(Bytes),
    /// A part of a batch, which counts its bytes itself.
    Part(Bytes),
}

/// The bytes of one entry, shared by the messages in it, the journal's writer and the mirrors.
pub struct EntryBuf(Data);

impl EntryBuf {
    /// Bytes in memory, counted by `gauge` until the last user lets go.
    pub fn owned(data: Vec<u8>, gauge: Option<Arc<MemoryGauge>>) -> Arc<Self> {
        if let Some(gauge) = &gauge {
            gauge
                .bytes
                .fetch_add(data.capacity() as i64, Ordering::Relaxed);
        }
        Arc::new(EntryBuf(Data::Owned(data, gauge)))
    }

    /// A slice of a mapped segment or a network buffer: not counted.
    pub fn shared(data: Bytes) -> Arc<Self> {
        Arc::new(EntryBuf(Data::Shared(data)))
    }

    /// A slice of a batch in memory.
    pub(crate) fn part(data: Bytes) -> Arc<Self> {
        Arc::new(EntryBuf(Data::Part(data)))
    }

    /// The same bytes as `Bytes`, without copying.
    pub fn to_bytes(self: &Arc<Self>) -> Bytes {
        match &self.0 {
            Data::Shared(bytes) | Data::Part(bytes) => bytes.clone(),
            Data::Owned(..) => Bytes::from_owner(Owner(self.clone())),
        }
    }

    /// The bytes, taken out if nobody else uses them.
    pub(crate) fn into_vec(entry: Arc<Self>) -> Vec<u8> {
        match Arc::try_unwrap(entry) {
            Ok(mut entry) => match &mut entry.0 {
                Data::Owned(data, _) => std::mem::take(data),
                Data::Shared(bytes) | Data::Part(bytes) => bytes.to_vec(),
            },
            Err(entry) => entry.to_vec(),
        }
    }

    /// Bytes of memory that this entry holds; 0 for a mapped one.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Data::Owned(data, _) => data.capacity(),
            Data::Part(bytes) => bytes.len(),
            Data::Shared(_) => 0,
        }
    }
}

struct Owner(Arc<EntryBuf>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for EntryBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Data::Owned(data, _) => data,
            Data::Shared(bytes) | Data::Part(bytes) => bytes,
        }
    }
}

impl Drop for EntryBuf {
    fn drop(&mut self) {
        if let Data::Owned(data, Some(gauge)) = &mut self.0 {
            gauge
                .bytes
                .fetch_sub(data.capacity() as i64, Ordering::Relaxed);
            if data.capacity() >= SPARE_BYTES_MIN {
                gauge.give_back(std::mem::take(data));
            }
        }
    }
}

impl fmt::Debug for EntryBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryBuf({} bytes)", self.len())
    }
}

/// One message: a reference into its entry. Cloning is a reference count.
///
/// Invariant: the op at `at` was checked by the reader or written by the builder, so the accessors find what they ask
/// for; on bytes that break it they answer with empty slices.
#[derive(Clone)]
pub struct Message {
    entry: Arc<EntryBuf>,
    at: u32,
}

/// Offsets of the variable parts of an enqueue or relocated op.
struct Parts {
    exchange: usize,
    routing_key: usize,
    properties: usize,
    body: usize,
    end: usize,
}

impl Message {
    pub(crate) fn new(entry: Arc<EntryBuf>, at: u32) -> Self {
        Message { entry, at }
    }

    /// What counts the bytes of its entry.
    pub(crate) fn gauge(&self) -> Option<Arc<MemoryGauge>> {
        match &self.entry.0 {
            Data::Owned(_, gauge) => gauge.clone(),
            Data::Shared(_) | Data::Part(_) => None,
        }
    }

    fn op(&self) -> &[u8] {
        self.entry.get(self.at as usize..).unwrap_or_default()
    }

    #[inline]
    fn parts(op: &[u8]) -> Option<Parts> {
        let head = op.get(..MESSAGE_HEADER)?;
        let slots = u16_at(head, 2)? as usize;
        let seqs = if head[0] == super::KIND_RELOCATED {
            slots * 8
        } else {
            0
        };
        let exchange = if seqs > 0 {
            super::pad8(MESSAGE_HEADER + slots * 2) + seqs
        } else {
            MESSAGE_HEADER + slots * 2
        };
        let routing_key = exchange + head[16] as usize;
        let properties = routing_key + head[17] as usize;
        let body = properties + u32_at(head, 12)? as usize;
        let end = body + u32_at(head, 8)? as usize;
        (end <= op.len()).then_some(Parts {
            exchange,
            routing_key,
            properties,
            body,
            end,
        })
    }

    /// Everything at once: exchange, routing key, properties (as they came), body.
    #[inline]
    pub fn content(&self) -> (&[u8], &[u8], &[u8], &[u8]) {
        let op = self.op();
        match Self::parts(op) {
            Some(p) => (
                &op[p.exchange..p.routing_key],
                &op[p.routing_key..p.properties],
                &op[p.properties..p.body],
                &op[p.body..p.end],
            ),
            None => (&[], &[], &[], &[]),
        }
    }

    /// The exchange that it was published to.
    pub fn exchange(&self) -> &[u8] {
        self.content().0
    }

    /// The routing key that it was published with.
    pub fn routing_key(&self) -> &[u8] {
        self.content().1
    }

    /// Property flags and list, undecoded.
    pub fn properties(&self) -> &[u8] {
        self.content().2
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.content().3
    }

    /// Bytes of the body.
    #[inline]
    pub fn body_len(&self) -> u32 {
        u32_at(self.op(), 8).unwrap_or(0)
    }

    /// Wall clock of its publishing, milliseconds since 1970.
    #[inline]
    pub fn time_ms(&self) -> u64 {
        u64_at(self.op(), 24).unwrap_or(0)
    }

    fn flags(&self) -> u8 {
        self.op().get(1).copied().unwrap_or(0)
    }

    /// delivery_mode 2.
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.flags() & FLAG_PERSISTENT != 0
    }

    /// Per-message TTL in milliseconds (RabbitMQ extension, the `expiration` property).
    #[inline]
    pub fn expiration_ms(&self) -> Option<u64> {
        let flags = self.flags();
        if flags & FLAG_EXPIRATION == 0 {
            return None;
        }
        let unit = if flags & super::FLAG_EXPIRATION_SECONDS != 0 {
            1000
        } else {
            1
        };
        Some(u64::from(u32_at(self.op(), 20)?) * unit)
    }

    /// The `priority` property, 0 if absent.
    #[inline]
    pub fn priority(&self) -> u8 {
        self.op().get(18).copied().unwrap_or(0)
    }

    /// The op that holds it: what [`Message::in_buffer`] makes the message of again, elsewhere.
    pub fn op_bytes(&self) -> &[u8] {
        self.op().get(..self.encoded_len()).unwrap_or_default()
    }

    /// The message whose op is at this place of a buffer; `None` if there is no such op.
    pub fn in_buffer(entry: &Arc<EntryBuf>, place: std::ops::Range<usize>) -> Option<Message> {
        let op = entry.get(place.clone())?;
        let kind = *op.first()?;
        if kind != super::KIND_ENQUEUE && kind != super::KIND_RELOCATED
            || u32_at(op, 4)? as usize != op.len()
        {
            return None;
        }
        Self::parts(op)?;
        Some(Message::new(
            Arc::clone(entry),
            u32::try_from(place.start).ok()?,
        ))
    }

    /// Bytes of the op that holds it.
    pub fn encoded_len(&self) -> usize {
        u32_at(self.op(), 4).unwrap_or(0) as usize
    }

    /// The same message in an entry of its own, which the same gauge counts.
    pub(crate) fn copied(&self) -> Option<Message> {
        let (exchange, routing_key, properties, body) = self.content();
        let message = NewMessage {
            exchange,
            routing_key,
            properties,
            body: &[body],
            persistent: self.is_persistent(),
            expiration_ms: self.expiration_ms(),
            priority: self.priority(),
            time_ms: self.time_ms(),
        };
        EntryBuilder::single_counted(&message, self.gauge())
    }

    /// Whether its entry is mostly held in memory for few messages: `true` if less than a quarter of the
    /// entry's bytes can still be in use by messages like this one.
    pub fn pins_entry(&self) -> bool {
        let users = Arc::strong_count(&self.entry);
        self.entry.memory_bytes() > 4096
            && users.saturating_mul(self.encoded_len() * 4) < self.entry.memory_bytes()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exchange, key, _, body) = self.content();
        write!(
            f,
            "Message({}/{} {} bytes)",
            String::from_utf8_lossy(exchange),
            String::from_utf8_lossy(key),
            body.len()
        )
    }
}
