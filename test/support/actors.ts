import { randomBytes } from 'node:crypto';
import { data, type Auth } from './client.ts';

export interface Person extends Auth {
  readonly id: string;
  readonly email: string;
  readonly token: string;
}

const signUp = `mutation ($input: SignUpInput!) { signUp(input: $input) { __typename ... on SignUpSuccess { token user { id } } ... on Error { message } } }`;
const createWorkspace = `mutation ($input: CreateWorkspaceInput!) { createWorkspace(input: $input) {
  __typename ... on CreateWorkspaceSuccess { workspace { id } eventCursor } ... on Error { message } } }`;
const addMember = `mutation ($input: AddMemberInput!) { addMember(input: $input) { __typename ... on AddMemberSuccess { membership { id } } ... on Error { message } } }`;
const createApiKey = `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on CreateApiKeySuccess { key apiKey { id } } ... on Error { message } } }`;

const unique = () => randomBytes(5).toString('hex');

type Union<K extends string, T> = Record<K, { __typename: string; message?: string } & T>;

function success<T extends { __typename: string; message?: string }>(value: T): T {
  if (!value.__typename.endsWith('Success')) throw new Error(`${value.__typename}: ${value.message}`);
  return value;
}

/** A new registered person. */
export async function person(url: string, name = 'Ada'): Promise<Person> {
  const email = `${name.toLowerCase()}-${unique()}@example.com`;
  const answer = await data<Union<'signUp', { token: string; user: { id: string } }>>(url, signUp, {
    input: { email, password: 'correct horse battery staple', name },
  });
  const { token, user } = success(answer.signUp);
  return { id: user.id, email, token };
}

/** A new workspace that the person owns. Its global id, and the cursor right after its creation. */
export async function workspace(url: string, owner: Auth): Promise<{ id: string; cursor: string }> {
  const slug = `w-${unique()}`;
  const answer = await data<Union<'createWorkspace', { workspace: { id: string }; eventCursor: string }>>(
    url,
    createWorkspace,
    { input: { name: slug, slug } },
    owner,
  );
  const made = success(answer.createWorkspace);
  return { id: made.workspace.id, cursor: made.eventCursor };
}

export type RoleName = 'OWNER' | 'ADMIN' | 'MEMBER' | 'VIEWER';

/** A new person with this role in the workspace. */
export async function member(
  url: string,
  owner: Auth,
  workspaceId: string,
  role: RoleName,
): Promise<Person & { membershipId: string }> {
  const someone = await person(url, role);
  const answer = await data<Union<'addMember', { membership: { id: string } }>>(
    url,
    addMember,
    { input: { workspaceId, email: someone.email, role } },
    owner,
  );
  return { ...someone, membershipId: success(answer.addMember).membership.id };
}

export async function apiKey(
  url: string,
  owner: Auth,
  workspaceId: string,
  role: RoleName,
): Promise<{ id: string; apiKey: string }> {
  const answer = await data<Union<'createApiKey', { key: string; apiKey: { id: string } }>>(
    url,
    createApiKey,
    { input: { workspaceId, name: 'test', role } },
    owner,
  );
  const made = success(answer.createApiKey);
  return { id: made.apiKey.id, apiKey: made.key };
}
