/** `@waybill/outbox`: the types; what makes an outbox is in `/postgres`, `/mysql` and `/sqlite`. */
export type * from './types.ts';
