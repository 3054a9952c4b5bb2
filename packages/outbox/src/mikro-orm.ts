export * from '@waybill/sql/mikro-orm';
