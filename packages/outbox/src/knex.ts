export * from '@waybill/sql/knex';
