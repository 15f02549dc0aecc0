//! Recorded ids: which operation ids are taken, without what the operations are.

use std::collections::HashSet;

use super::error::StoreError;
use super::lock::KNOWN_OPERATIONS;
use super::requests::Requests;
use crate::domain::OperationId;

impl Requests {
    /// Which of these ids have an operation.
    pub async fn recorded_operations(
        &self,
        operation_ids: Vec<OperationId>,
    ) -> Result<HashSet<OperationId>, StoreError> {
        self.request(move |client| async move {
            let ids: Vec<&str> = operation_ids.iter().map(OperationId::as_str).collect();
            let statement = client.prepare_cached(KNOWN_OPERATIONS).await?;
            let row = client.query_one(&statement, &[&ids]).await?;
            let recorded: Vec<&str> = row.get("operation_ids");
            Ok(recorded.into_iter().map(OperationId::from_stored).collect())
        })
        .await
    }
}
