//! Audio in every format: pieces of any size into room of any size make the same samples as all at once, and the same
//! as other decoders make.
#![no_main]

use base64_simd::STANDARD;
use libfuzzer_sys::fuzz_target;
use trunkline::{
    dialect::{
        Carrier, Coding, Format, Malformed,
        decode::{Decoder, MOST_LEFT, most_samples},
    },
    media::Rate,
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((steer, bytes)) = Steer::split(data) else { return };
    for carrier in [Carrier::Array, Carrier::Base64, Carrier::Raw] {
        for coding in [Coding::Decimal, Coding::Pcm16Le, Coding::Mulaw, Coding::Alaw] {
            let format = Format { carrier, coding, rate: Rate::Hz8000 };
            let whole = whole(format, bytes);
            assert_eq!(whole, in_pieces(format, steer.clone(), bytes), "{format:?}");
            if carrier == Carrier::Array {
                array(bytes, &whole);
            }
            if (carrier, coding) == (Carrier::Base64, Coding::Pcm16Le)
                && let Ok(pcm) = STANDARD.decode_to_vec(bytes)
            {
                let samples: Vec<_> = pcm.as_chunks().0.iter().map(|&pair| i16::from_le_bytes(pair)).collect();
                assert_eq!(whole, Ok((samples, 0, pcm.len() as u32 % 2)));
            }
        }
    }
});

/// Samples, how many were clamped, how many bytes were odd.
type Decoded = Result<(Vec<i16>, u32, u32), Malformed>;

fn whole(format: Format, bytes: &[u8]) -> Decoded {
    let mut decoder = Decoder::new(format);
    let mut samples = vec![0; most_samples(format, bytes.len())];
    let (consumed, mut made) = decoder.decode(bytes, &mut samples)?;
    assert_eq!(consumed, bytes.len(), "most_samples() is room enough");
    let left = decoder.finish(&mut samples[made..])?;
    assert!(left <= MOST_LEFT);
    made += left;
    let mut more = [0; MOST_LEFT];
    assert_eq!(decoder.finish(&mut more), Ok(0), "most_samples() counts the last ones, too");
    samples.truncate(made);
    Ok((samples, decoder.clamped(), decoder.odd_bytes()))
}

fn in_pieces(format: Format, mut steer: Steer, mut bytes: &[u8]) -> Decoded {
    let mut decoder = Decoder::new(format);
    let mut samples = vec![];
    let mut room = [0; 64];
    while !bytes.is_empty() {
        let mut piece = steer.piece(&mut bytes);
        while !piece.is_empty() {
            let out = &mut room[..steer.up_to(63) + 1];
            let (consumed, made) = decoder.decode(piece, out)?;
            assert!(consumed <= piece.len() && made <= out.len());
            assert!(consumed == piece.len() || made == out.len(), "stopped without need");
            samples.extend(&out[..made]);
            piece = &piece[consumed..];
        }
    }
    loop {
        let out = &mut room[..steer.up_to(3) + 1];
        let made = decoder.finish(out)?;
        samples.extend(&out[..made]);
        if made < out.len() {
            return Ok((samples, decoder.clamped(), decoder.odd_bytes()));
        }
    }
}

/// What is an array of whole numbers for serde_json is one for us.
fn array(bytes: &[u8], whole: &Decoded) {
    let text = [b"[", bytes, b"]"].concat();
    let Ok(numbers) = serde_json::from_slice::<Vec<i64>>(&text) else { return };
    let clamp = |&number: &i64| number.clamp(i16::MIN.into(), i16::MAX.into());
    let clamped = numbers.iter().filter(|number| clamp(number) != **number).count();
    let samples: Vec<_> = numbers.iter().map(|number| clamp(number) as i16).collect();
    assert_eq!(*whole, Ok((samples, clamped as u32, 0)));
}
