//! The ledger's types as columns. Queries bind them as they are, and read them with a type in the column's name, such as
//! `business_id AS "business_id: BusinessId"`. This is not in the ledger, because the ledger knows no database.

use crate::ledger::{
    Amount, BusinessId, Cause, Delivery, Disabled, Email, KeyScope, Kind, Millis, Outcome, Reference, RequestId,
    ShardId, ShardState, UserHash,
};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// A time of the ledger, as a `timestamptz`. A moment beyond all dates gives the first or the last date.
pub(super) fn moment(millis: Millis) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::milliseconds(millis))
}

/// A stored value that the ledger's type does not allow. It leads to [`super::Error::Fatal`].
#[derive(Debug, thiserror::Error)]
#[error("a stored {0} is not valid")]
pub(super) struct Unfit(pub &'static str);

/// Makes `$value` a column of the type of `$stored`: `$read` makes it of a stored value, and `$write` does the reverse.
macro_rules! column {
    ($value:ty, $stored:ty, read: $read:expr, write: $write:expr) => {
        impl Type<Postgres> for $value {
            fn type_info() -> PgTypeInfo {
                <$stored as Type<Postgres>>::type_info()
            }

            fn compatible(column: &PgTypeInfo) -> bool {
                <$stored as Type<Postgres>>::compatible(column)
            }
        }

        impl PgHasArrayType for $value {
            fn array_type_info() -> PgTypeInfo {
                <$stored as PgHasArrayType>::array_type_info()
            }
        }

        impl Encode<'_, Postgres> for $value {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                let write: fn(&Self) -> $stored = $write;
                Encode::<Postgres>::encode_by_ref(&write(self), buffer)
            }
        }

        impl<'r> Decode<'r, Postgres> for $value {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                let read: fn($stored) -> Result<Self, Unfit> = $read;
                Ok(read(Decode::<Postgres>::decode(value)?)?)
            }
        }
    };
}

column!(BusinessId, Uuid, read: |id| Ok(Self::from_u128(id.as_u128())), write: |id| Uuid::from_u128(id.as_u128()));
column!(RequestId, Uuid, read: |id| Ok(Self::from_u128(id.as_u128())), write: |id| Uuid::from_u128(id.as_u128()));
column!(ShardId, i16, read: |number| number.try_into().map(Self::new).map_err(|_| Unfit("shard")), write: |id| id.number().into());
column!(ShardState, &str, read: |text| Self::parse(text).ok_or(Unfit("shard state")), write: |state| state.as_str());
column!(UserHash, &[u8], read: |bytes| bytes.try_into().map(Self).map_err(|_| Unfit("hash")), write: |hash| &hash.0);
column!(Email, &str, read: |text| Ok(Email::stored(text.to_owned())), write: Email::as_str);
column!(KeyScope, &str, read: |text| Self::parse(text).ok_or(Unfit("scope")), write: |scope| scope.as_str());
column!(Kind, &str, read: |text| Self::parse(text).ok_or(Unfit("kind")), write: |kind| kind.as_str());
column!(Reference, &str, read: |text| Ok(Reference::stored(text)), write: Reference::as_str);
column!(Amount, i64, read: |cents| Self::from_cents(cents).map_err(|_| Unfit("amount")), write: |amount| amount.cents());
column!(Outcome, &str, read: |text| Self::parse(text).ok_or(Unfit("outcome")), write: |outcome| outcome.as_str());
// A later release may have written a cause that this one does not know.
column!(Cause, &str, read: |text| Ok(Self::parse(text).unwrap_or(Self::Other)), write: |cause| cause.as_str());
column!(Disabled, &str, read: |text| Self::parse(text).ok_or(Unfit("reason")), write: |reason| reason.as_str());
column!(Delivery, &str, read: |text| Self::parse(text).ok_or(Unfit("result")), write: |result| result.as_str());
