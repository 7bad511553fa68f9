//! The order of numbers is the mathematical one, whatever they are made of.

use std::cmp::Ordering;

use proptest::prelude::*;
use serde_json::Number as JsonNumber;

use super::{Number, naive};

/// Numbers of every make, crowded where a lossy cast would show.
pub(crate) fn any_number() -> impl Strategy<Value = JsonNumber> {
    let double = |double| JsonNumber::from_f64(double).unwrap();
    let edge = prop::sample::select(vec![
        0.0_f64,
        1.0,
        9_007_199_254_740_992.0,
        9_223_372_036_854_775_808.0,
        18_446_744_073_709_551_616.0,
    ]);
    let close = -3_i128..=3;
    prop_oneof![
        any::<i64>().prop_map(JsonNumber::from),
        any::<u64>().prop_map(JsonNumber::from),
        prop::num::f64::ANY
            .prop_filter("JSON has no such number", |double| double.is_finite())
            .prop_map(double),
        (edge.clone(), close.clone(), any::<bool>()).prop_map(|(edge, steps, negative)| {
            let near = (edge as i128 + steps) * if negative { -1 } else { 1 };
            let unsigned = u64::try_from(near).map(JsonNumber::from);
            let signed = i64::try_from(near).map(JsonNumber::from);
            unsigned.or(signed).unwrap_or_else(|_| 0.into())
        }),
        (edge, 0..=3_u64, any::<bool>(), any::<bool>()).prop_map(
            move |(edge, ulps, below, negative): (f64, _, _, _)| {
                let bits = edge.to_bits();
                let near = f64::from_bits(if below {
                    bits.saturating_sub(ulps)
                } else {
                    bits + ulps
                });
                double(if negative { -near } else { near })
            }
        ),
    ]
}

fn order(a: &JsonNumber, b: &JsonNumber) -> Ordering {
    Number::of_json(a)
        .unwrap()
        .cmp(&Number::of_json(b).unwrap())
}

proptest! {
    #[test]
    fn two_numbers_compare_as_their_digits_do(a in any_number(), b in any_number()) {
        prop_assert_eq!(order(&a, &b), naive::compare(&a, &b));
    }

    #[test]
    fn the_order_is_antisymmetric(a in any_number(), b in any_number()) {
        prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
        prop_assert_eq!(order(&a, &a), Ordering::Equal);
    }

    #[test]
    fn the_order_is_transitive(mut abc in prop::array::uniform3(any_number())) {
        abc.sort_by(order);
        let [a, b, c] = &abc;
        prop_assert!(order(a, b).is_le() && order(b, c).is_le() && order(a, c).is_le());
        let equal = order(a, b).is_eq() && order(b, c).is_eq();
        prop_assert_eq!(equal, order(a, c).is_eq());
    }
}

#[test]
fn zeros_are_one_number() {
    let zero = Number::from(0_i64);
    assert_eq!(zero, Number::from(0.0));
    assert_eq!(zero, Number::from(-0.0));
    assert_eq!(Number::from(0.0), Number::from(-0.0));
    assert!(zero < Number::from(f64::from_bits(1)));
    assert!(zero > Number::from(-f64::from_bits(1)));
}

#[test]
fn the_neighbours_of_the_largest_whole_numbers_are_told_apart() {
    let two_63 = 9_223_372_036_854_775_808.0_f64;
    assert!(Number::from(i64::MAX) < Number::from(two_63));
    assert_eq!(Number::from(i64::MIN), Number::from(-two_63));
    assert!(Number::from(i64::MIN) > Number::from(f64::from_bits((-two_63).to_bits() + 1)));
    assert!(Number::of_json(&u64::MAX.into()).unwrap() < Number::from(2.0 * two_63));
    assert!(Number::from(i64::MAX) < Number::from(f64::MAX));
    assert!(Number::from(i64::MIN) > Number::from(f64::MIN));
}
