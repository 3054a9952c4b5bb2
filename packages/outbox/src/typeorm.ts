export * from '@waybill/sql/typeorm';
