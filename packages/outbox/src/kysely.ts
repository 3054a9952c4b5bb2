export * from '@waybill/sql/kysely';
