import type { TypedDocumentString } from '../generated/graphql.ts';
import { data, type Auth } from './client.ts';

/** Executes a typed document; throws on errors. The answer and the variables have the document's types. */
export const run = <R, V extends object>(
  url: string,
  document: TypedDocumentString<R, V>,
  variables: V,
  auth: Auth = {},
): Promise<R> => data<R>(url, document.toString(), variables, auth);
