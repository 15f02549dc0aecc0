-- Checks the shapes of all operations that were there before. It reads all of them, and keeps nobody from reading or writing.

SET LOCAL statement_timeout = 0;
ALTER TABLE operations VALIDATE CONSTRAINT operations_kind_shape;
ALTER TABLE operations VALIDATE CONSTRAINT operations_source_shape;
ALTER TABLE operations VALIDATE CONSTRAINT operations_destination_shape;
ALTER TABLE operations VALIDATE CONSTRAINT operations_refusal_shape;
ALTER TABLE operations VALIDATE CONSTRAINT operations_leg_count_shape;
