import { InvalidMessageError } from './errors.ts';
import { textOf } from './limits.ts';

/** The Standard Schema interface (standardschema.dev, version 1), which zod, valibot, arktype and others implement. */
export interface StandardSchema<In = unknown, Out = In> {
  readonly '~standard': {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Out> | Promise<SchemaResult<Out>>;
    readonly types?: { readonly input: In; readonly output: Out } | undefined;
  };
}

export type SchemaResult<Out> =
  | { readonly value: Out; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

export interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What a schema takes, and what it makes of it. */
export type SchemaInput<S extends StandardSchema> = NonNullable<S['~standard']['types']>['input'];
export type SchemaOutput<S extends StandardSchema> = NonNullable<S['~standard']['types']>['output'];

/**
 * What a schema makes of a value. Gives a promise only where the schema does.
 *
 * @throws InvalidMessageError with every issue; its field is the first one's
 */
export function validate(schema: StandardSchema, value: unknown, topic: string): unknown {
  const fault = (cause: unknown): never => {
    throw new InvalidMessageError('data', `the schema of topic "${topic}" failed: ${textOf(cause)}`, { cause });
  };
  let result: SchemaResult<unknown> | Promise<SchemaResult<unknown>>;
  try {
    result = schema['~standard'].validate(value);
  } catch (cause) {
    return fault(cause);
  }
  return result instanceof Promise ? result.catch(fault).then((one) => accepted(one, topic)) : accepted(result, topic);
}

function accepted(result: SchemaResult<unknown>, topic: string): unknown {
  if (result.issues === undefined) return result.value;
  const issues = result.issues.map((issue) => ({ message: issue.message, path: pathOf(issue.path) }));
  const [first, ...others] = issues;
  const more = others.length === 0 ? '' : ` (and ${others.length} more)`;
  throw new InvalidMessageError(
    `data${first?.path ?? ''}`,
    `does not fit the schema of topic "${topic}": ${first?.message ?? 'no reason given'}${more}`,
    { issues: issues.map((issue) => ({ message: issue.message, path: `data${issue.path}` })) },
  );
}

function pathOf(path: readonly (PropertyKey | { readonly key: PropertyKey })[] = []): string {
  let text = '';
  for (const part of path) {
    const key = typeof part === 'object' ? part.key : part;
    text += typeof key === 'number' ? `[${key}]` : `.${String(key)}`;
  }
  return text;
}
