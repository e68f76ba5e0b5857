//! Headers as the specification gives them, and everything that is nearly one.

use proptest::prelude::*;

use super::*;

fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&V2_SIGNATURE[..], &[version_command, family], &length, body].concat()
}

/// What `bytes` are read as, and what is left after the header.
fn read(bytes: &[u8]) -> (Result<Option<Addresses>, String>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut rest = bytes;
        let result = read_header(&mut rest).await;
        (result.map_err(|error| error.to_string()), rest.to_vec())
    })
}

fn addresses(source: &str, destination: &str) -> Option<Addresses> {
    let parse = |text: &str| text.parse().unwrap();
    Some(Addresses {
        source: parse(source),
        destination: parse(destination),
    })
}

#[test]
fn version_1() {
    let four = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 5672\r\nAMQP\0\0\x09\x01";
    assert_eq!(
        read(four),
        (
            Ok(addresses("192.0.2.1:56324", "198.51.100.2:5672")),
            b"AMQP\0\0\x09\x01".to_vec()
        )
    );
    let six = b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
    assert_eq!(
        read(six),
        (Ok(addresses("[2001:db8::1]:1", "[::1]:65535")), vec![])
    );
    assert_eq!(read(b"PROXY UNKNOWN\r\nAMQP").0, Ok(None));
    assert_eq!(
        read(b"PROXY UNKNOWN whatever else\r\nAMQP"),
        (Ok(None), b"AMQP".to_vec())
    );
}

#[test]
fn version_1_malformed() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 5672 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 5672\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 1 5672\r\n",
        "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        "PROXY TCP4 300.0.2.1 198.51.100.2 1 2\r\n",
        "PROXYTCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "AMQP\0\0\x09\x01 and more",
    ] {
        assert!(read(line.as_bytes()).0.is_err(), "{line}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let (result, rest) = read(endless.as_bytes());
    assert_eq!(
        result,
        Err("malformed PROXY header: longer than 107 bytes".to_owned())
    );
    assert_eq!(rest.len(), endless.len() - V1_BYTES_MAX);
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX - 16));
    assert_eq!(read(longest.as_bytes()).0, Ok(None));
}

#[test]
fn version_2() {
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 0x16, 0x28];
    let expected = addresses("192.0.2.1:56324", "198.51.100.2:5672");
    assert_eq!(read(&v2(0x21, 0x11, &four)), (Ok(expected), vec![]));
    let with_extensions = [&four[..], &[0x04, 0x01, 0x00], &[7; 256]].concat();
    let bytes = [v2(0x21, 0x11, &with_extensions), b"AMQP".to_vec()].concat();
    assert_eq!(read(&bytes), (Ok(expected), b"AMQP".to_vec()));

    let mut six = [0; 36];
    (six[15], six[31], six[33], six[35]) = (1, 2, 3, 4);
    assert_eq!(
        read(&v2(0x21, 0x21, &six)).0,
        Ok(addresses("[::1]:3", "[::2]:4"))
    );
    assert_eq!(read(&v2(0x20, 0x00, &[])).0, Ok(None));
    assert_eq!(read(&v2(0x20, 0x11, &four)).0, Ok(None));
    assert_eq!(read(&v2(0x21, 0x31, &[b'/'; 216])), (Ok(None), vec![]));
    assert_eq!(read(&v2(0x21, 0x00, &[0; 65535])), (Ok(None), vec![]));
}

#[test]
fn version_2_malformed() {
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 0x16, 0x28];
    for bytes in [
        v2(0x11, 0x11, &four),
        v2(0x22, 0x11, &four),
        v2(0x21, 0x41, &four),
        v2(0x21, 0x11, &four[..11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x11, &four)[..20].to_vec(),
        V2_SIGNATURE.to_vec(),
    ] {
        assert!(read(&bytes).0.is_err(), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes(
        start in prop::sample::select(vec![b"PROXY ".to_vec(), V2_SIGNATURE.to_vec(), vec![]]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, bytes].concat();
        let (_, rest) = read(&bytes);
        prop_assert!(rest.len() <= bytes.len());
    }

    #[test]
    fn addresses_come_through(source: SocketAddrParts, destination: SocketAddrParts, six: bool) {
        let (source, destination) = (source.address(six), destination.address(six));
        let protocol = if six { "TCP6" } else { "TCP4" };
        let line = format!(
            "PROXY {protocol} {} {} {} {}\r\n",
            source.ip(), destination.ip(), source.port(), destination.port()
        );
        prop_assert_eq!(parse_v1(line.as_bytes()), Ok(Some(Addresses { source, destination })));
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let body = [
            octets(source.ip()),
            octets(destination.ip()),
            source.port().to_be_bytes().to_vec(),
            destination.port().to_be_bytes().to_vec(),
        ].concat();
        let family = if six { 0x21 } else { 0x11 };
        prop_assert_eq!(read(&v2(0x21, family, &body)).0, Ok(Some(Addresses { source, destination })));
    }
}

#[derive(Debug)]
struct SocketAddrParts(u128, u16);

impl SocketAddrParts {
    fn address(&self, six: bool) -> SocketAddr {
        let ip = match six {
            true => IpAddr::V6(Ipv6Addr::from_bits(self.0)),
            false => IpAddr::V4(Ipv4Addr::from_bits((self.0 & 0xffff_ffff) as u32)),
        };
        SocketAddr::new(ip, self.1)
    }
}

impl Arbitrary for SocketAddrParts {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        (any::<u128>(), any::<u16>())
            .prop_map(|(bits, port)| Self(bits, port))
            .boxed()
    }
}
