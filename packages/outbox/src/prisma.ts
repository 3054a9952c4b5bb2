export * from '@waybill/sql/prisma';
