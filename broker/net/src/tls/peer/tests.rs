//! Names, against what RabbitMQ 3.10.8 made of the same bytes.

use super::*;

/// The bytes of hexadecimal digits; anything else in `text` is passed over.
fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

fn name<T>(der: &[u8], of: impl Fn(&X509Name<'_>) -> T) -> T {
    let (rest, name) = X509Name::from_der(der).unwrap();
    assert!(rest.is_empty());
    of(&name)
}

/// UTF-8, BMP, Teletex and printable strings; parts of several attributes; every named attribute;
/// an attribute without a name; everything that is escaped.
#[test]
fn distinguished_names_are_rabbitmqs() {
    for (der, expected) in [
        (
            "307c310b3009060355040613024e4c3116301406035504080c0d4e6f6f72642d486f6c6c616e6431 \
         12301006035504070c09416d7374657264616d31163014060355040a0c0d4578616d706c652c2049 \
         6e632e3118300a060355040b0c03446576300a060355040b0c034f7073310f300d06035504030c06 \
         636c69656e74",
            "CN=client,OU=Dev+OU=Ops,O=Example\\, Inc.,L=Amsterdam,ST=Noord-Holland,C=NL",
        ),
        (
            "303d311f301d06035504030c16206c656164696e6720616e6420747261696c696e6720310e300c06 \
         0355040a0c052368617368310a3008060355040b0c0161",
            "OU=a,O=\\#hash,CN=\\ leading and trailing\\ ",
        ),
        (
            "308201003111300f06035504030c085a6fc3ab20ce9b7e311a301806092a864886f70d010901160b \
         6140622e6578616d706c6531173015060a0992268993f22c64011916076578616d706c6531133011 \
         060a0992268993f22c6401191603636f6d31123010060a0992268993f22c6401010c026d65310c30 \
         0a06035504040c03537572310e300c060355042a0c05476976656e310b3009060355040513023132 \
         310b3009060355040c0c024472310b3009060355042b0c025a5a310c300a060355042c0c03494949 \
         310b300906035504410c0270733112301006035504090c094d61696e2073742031310a3008060355 \
         042e130171310d300b06035504110c0431323334",
            "2.5.4.17=1234,2.5.4.46=q,2.5.4.9=Main st 1,PSEUDONYM=ps,GENERATIONQUALIFIER=III,INITIALS=ZZ,TITLE=Dr,SERIALNUMBER=12,GIVENNAME=Given,SN=Sur,UID=me,DC=com,DC=example,EMAILADDRESS=a@b.example,CN=Zo\\C3\\AB \\CE\\9B\\7E",
        ),
        (
            "3023310c300a06035504030c036f6e653113301106035504030c0a74776f2c207468726565",
            "CN=two\\, three,CN=one",
        ),
        (
            "3018310a300806035504030c0120310a3008060355040a0c0178",
            "O=x,CN=\\ ",
        ),
        (
            "303d3113301106035504031e0a005a006f00eb0020039b310f300d060355040a1e0600dc006e00ef \
         311530130603530405130c756e6b6e6f776e2074657874",
            "2.3.4.5=unknown text,O=\\C3\\9Cn\\C3\\AF,CN=Zo\\C3\\AB \\CE\\9B",
        ),
        (
            "3033310c300a060355040314035a6feb310c300a060355040a1403dc6eef31153013060353040513 \
         0c756e6b6e6f776e2074657874",
            "2.3.4.5=unknown text,O=\\C3\\9Cn\\C3\\AF,CN=Zo\\C3\\AB",
        ),
    ] {
        assert_eq!(name(&bytes(der), distinguished_name), expected);
    }
}

#[test]
fn common_names_are_joined_and_not_escaped() {
    let two = bytes("3023310c300a06035504030c036f6e653113301106035504030c0a74776f2c207468726565");
    assert_eq!(name(&two, common_names).as_deref(), Some("one,two, three"));
    let none = bytes("300c310a3008060355040a0c0178");
    assert_eq!(name(&none, common_names), None);
}

#[test]
fn values_that_are_no_text_are_hexadecimal() {
    let not_utf8 = bytes("300d310b300906035504030c02fffe");
    assert_eq!(name(&not_utf8, distinguished_name), "CN=#0C02FFFE");
}

#[test]
fn escapes() {
    for (value, expected) in [
        ("", ""),
        ("plain", "plain"),
        (" ", "\\ "),
        ("  ", "\\ \\ "),
        ("#a#", "\\#a#"),
        ("a,b+c\"d\\e;f<g>h", "a\\,b\\+c\\\"d\\\\e\\;f\\<g\\>h"),
        ("\u{1}~\u{7f}\u{e9}", "\\01\\7E\\7F\\C3\\A9"),
    ] {
        assert_eq!(escape(value), expected);
    }
}

#[test]
fn addresses() {
    assert_eq!(address(&[127, 0, 0, 1]).as_deref(), Some("127.0.0.1"));
    assert_eq!(address(&[0; 16]).as_deref(), Some("::"));
    assert_eq!(address(&[0; 5]), None);
}

#[test]
fn other_names() {
    // [0] { UTF8String "ab" }, and the string alone.
    assert_eq!(other_name(&bytes("a0040c026162")).as_deref(), Some("ab"));
    assert_eq!(other_name(&bytes("0c026162")).as_deref(), Some("ab"));
    assert_eq!(other_name(&bytes("02010a")), None);
    assert_eq!(other_name(&[]), None);
}
