//! Objects in S3.
