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
const inviteMember = `mutation ($input: InviteMemberInput!) { inviteMember(input: $input) { __typename ... on InviteMemberSuccess { invitation { id } } ... on Error { message } } }`;
const acceptInvitation = `mutation ($input: AcceptInvitationInput!) { acceptInvitation(input: $input) { __typename ... on AcceptInvitationSuccess { membership { id } } ... on Error { message } } }`;
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

interface DevelopmentMail {
  readonly to: string;
  readonly subject: string;
  readonly text: string;
}

/** Mails to an address in the development outbox, newest first. */
export async function mailsTo(url: string, email: string): Promise<DevelopmentMail[]> {
  const response = await fetch(new URL(`/dev/mail?to=${encodeURIComponent(email)}`, url));
  if (!response.ok) throw new Error(`/dev/mail answered ${response.status}`);
  return (await response.json()) as DevelopmentMail[];
}

/** The token of the newest invitation to an address. */
export async function invitationToken(url: string, email: string): Promise<string> {
  for (const { text } of await mailsTo(url, email)) {
    const [, token] = /\/invitation#token=([\w-]+)/.exec(text) ?? [];
    if (token) return token;
  }
  throw new Error(`no invitation was sent to ${email}`);
}

/** Asks an address to become a member; the global id of the invitation. */
export async function invite(
  url: string,
  owner: Auth,
  workspaceId: string,
  email: string,
  role: RoleName,
): Promise<string> {
  const input = { workspaceId, email, role };
  const answer = await data<Union<'inviteMember', { invitation: { id: string } }>>(url, inviteMember, { input }, owner);
  return success(answer.inviteMember).invitation.id;
}

/** Makes somebody who is registered a member, as they are made: by an invitation that they accept. */
export async function join(
  url: string,
  owner: Auth,
  workspaceId: string,
  somebody: Person,
  role: RoleName,
): Promise<{ membershipId: string }> {
  await invite(url, owner, workspaceId, somebody.email, role);
  const input = { token: await invitationToken(url, somebody.email) };
  const answer = await data<Union<'acceptInvitation', { membership: { id: string } }>>(
    url,
    acceptInvitation,
    { input },
    somebody,
  );
  return { membershipId: success(answer.acceptInvitation).membership.id };
}

/** A new person with this role in the workspace. */
export async function member(
  url: string,
  owner: Auth,
  workspaceId: string,
  role: RoleName,
): Promise<Person & { membershipId: string }> {
  const someone = await person(url, role);
  return { ...someone, ...(await join(url, owner, workspaceId, someone, role)) };
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
