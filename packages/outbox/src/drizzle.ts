export * from '@waybill/sql/drizzle';
