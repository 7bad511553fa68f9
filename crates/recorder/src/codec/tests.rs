use proptest::{collection::vec, prelude::*};

use super::{Decoder, Encoder};

fn encoded(values: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::default().encode(values, &mut bytes);
    bytes
}

fn check(values: &[u64]) -> usize {
    let bytes = encoded(values);
    let mut back = vec![7];
    Decoder::default()
        .decode(&bytes, values.len(), &mut back)
        .unwrap();
    assert_eq!(back[1..], *values);
    bytes.len()
}

fn bits(values: impl IntoIterator<Item = f64>) -> Vec<u64> {
    values.into_iter().map(f64::to_bits).collect()
}

/// Values that exporters have, and extreme ones.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<f64>().prop_map(f64::to_bits),
        (-5_i64..5).prop_map(|value| (value as f64).to_bits()),
        (any::<i32>(), 0..15_i32)
            .prop_map(|(value, point)| (f64::from(value) / 10_f64.powi(point)).to_bits()),
        Just(f64::NAN.to_bits()),
        Just(0x7ff0_0000_0000_0001),
        Just(f64::NEG_INFINITY.to_bits()),
        Just((-0.0_f64).to_bits()),
    ]
}

/// A column in which values repeat.
fn column() -> impl Strategy<Value = Vec<u64>> {
    let alike = prop_oneof![
        vec((value(), 1..20_usize), 1..40),
        vec((any::<f64>().prop_map(f64::to_bits), 1..3_usize), 1..200),
        vec(
            (
                (0..1000_u32).prop_map(|value| f64::from(value).to_bits()),
                1..5_usize
            ),
            1..300
        ),
        vec(
            (
                (0..10_000_u32).prop_map(|value| (f64::from(value) / 100.0).to_bits()),
                1..3_usize
            ),
            1..300
        ),
    ];
    alike.prop_map(|runs| {
        runs.iter()
            .flat_map(|(value, times)| std::iter::repeat_n(*value, *times))
            .collect()
    })
}

proptest! {
    #[test]
    fn values_round_trip_bit_for_bit(values in column()) {
        check(&values);
    }

    #[test]
    fn counters_round_trip(steps in vec(0..100_000_u64, 1..1024), from in 0..(1_u64 << 52)) {
        let mut counter = from;
        check(&bits(steps.iter().map(|step| { counter += step; counter as f64 })));
    }

    #[test]
    fn damaged_chunk_does_not_panic(values in column(), at in any::<prop::sample::Index>(), mask in 1..=u8::MAX) {
        let mut bytes = encoded(&values);
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let mut back = Vec::new();
        if Decoder::default().decode(&bytes, values.len(), &mut back).is_ok() {
            assert_eq!(back.len(), values.len());
        }
        bytes.truncate(at);
        back.clear();
        Decoder::default().decode(&bytes, values.len(), &mut back).ok();
    }
}

#[test]
fn constant_and_linear_columns_take_few_bytes() {
    assert_eq!(check(&[f64::NAN.to_bits(); 1024]), 5);
    assert_eq!(check(&bits([0.0; 1024])), 3);
    assert!(check(&bits((0..1024).map(f64::from))) < 32);
    assert!(
        check(&bits((0..1024).map(|step| f64::from(step / 15)))) < 80,
        "changes every 15 scrapes"
    );
    assert!(check(&bits((0..1024).map(|step| f64::from(step) / 4.0))) < 32);
}

#[test]
fn single_value_of_any_kind_round_trips() {
    for value in [
        0.0,
        -0.0,
        1.5,
        f64::INFINITY,
        f64::NAN,
        1e300,
        5e-324,
        9_007_199_254_740_993.0,
    ] {
        check(&bits([value]));
    }
}

#[test]
fn run_that_leaves_no_space_for_the_next_change_is_malformed() {
    let values = bits((0..100).map(|n| if n < 99 { 1.5 } else { 2.25 }));
    let bytes = encoded(&values);
    let mut decoder = Decoder::default();
    decoder.decode(&bytes, 100, &mut Vec::new()).unwrap();
    // With one value less, the run fills the chunk, and the last change would vanish.
    decoder.decode(&bytes, 99, &mut Vec::new()).unwrap_err();
}
