import { send, type Auth } from './client.ts';

/** What a mutation answered: its success type with the fields that were asked for, or a typed error. */
export interface Outcome {
  readonly __typename: string;
  readonly code?: string;
  readonly message?: string;
  readonly verb?: string;
  readonly issues?: readonly { readonly path: string; readonly message: string }[];
  // What was asked for: the tests compare it, they do not compute with it.
  // oxlint-disable-next-line typescript/no-explicit-any
  readonly [field: string]: any;
}

/** Refusals of a whole request, before anything of it is executed: those of who asks. */
const refusals: Readonly<Record<string, string>> = { UNAUTHENTICATED: 'Unauthenticated', FORBIDDEN: 'Forbidden' };

/** One mutation by its name, with the fields of its success type, as GraphQL text. */
export async function mutate(
  url: string,
  verb: string,
  input: object,
  auth: Auth = {},
  fields = '__typename',
): Promise<Outcome> {
  const name = verb.charAt(0).toUpperCase() + verb.slice(1);
  const answer = await send<Record<string, Outcome>>(
    url,
    `mutation ($input: ${name}Input!) { ${verb}(input: $input) {
      __typename ... on ${name}Success { ${fields} } ... on Error { code message }
      ... on ValidationError { issues { path message } } ... on Forbidden { verb } } }`,
    { input },
    auth,
  );
  const [error] = answer.errors ?? [];
  const code = String(error?.extensions?.['code']);
  const refusal = refusals[code];
  if (error && refusal) return { __typename: refusal, code, message: error.message };
  const outcome = answer.data?.[verb];
  if (error || !outcome) throw new Error(`${verb}: ${JSON.stringify(answer.errors)}`);
  return outcome;
}
