//! The ledger's values as columns. Queries bind them as they are, and read them back by name: `business_id AS "business_id:
//! BusinessId"`.
//!
//! Here and not in the ledger, which knows of no database.

use crate::ledger::{Amount, BusinessId, Cause, Email, IdempotencyKey, Outcome, Reference, RequestId, UserHash};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use uuid::Uuid;

/// What is stored is none of the ledger's values: see [`super::Error::Fatal`].
#[derive(Debug, thiserror::Error)]
#[error("a stored {0} is not valid")]
pub(super) struct Unfit(pub &'static str);

/// Makes `$value` a column like `$stored`, from which it is read and as which it is written.
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
column!(UserHash, &[u8], read: |bytes| bytes.try_into().map(Self).map_err(|_| Unfit("hash")), write: |hash| &hash.0);
column!(Email, &str, read: |text| Ok(Email::stored(text.to_owned())), write: Email::as_str);
column!(IdempotencyKey, &str, read: |text| Self::parse(text).ok_or(Unfit("key")), write: IdempotencyKey::as_str);
column!(Reference, &str, read: |text| Ok(Reference::stored(text)), write: Reference::as_str);
column!(Amount, i64, read: |cents| Self::from_cents(cents).map_err(|_| Unfit("amount")), write: |amount| amount.cents());
column!(Outcome, &str, read: |text| Self::parse(text).ok_or(Unfit("outcome")), write: |outcome| outcome.as_str());
// A later release may know causes that this one does not.
column!(Cause, &str, read: |text| Ok(Self::parse(text).unwrap_or(Self::Other)), write: |cause| cause.as_str());
