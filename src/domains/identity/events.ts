import { defineEvent } from '#kernel/events/define.ts';

export const workspaceCreated = defineEvent('workspace.created', {
  subject: 'Workspace',
  description: 'The workspace was created.',
});

export const memberAdded = defineEvent<{ userId: string; role: string }>('membership.added', {
  subject: 'Membership',
  description: 'Somebody became a member.',
});
export const memberRoleChanged = defineEvent<{ userId: string }>('membership.roleChanged', {
  subject: 'Membership',
  description: "A member's role changed; `from` and `to` tell the roles.",
  rights: true,
});
export const memberRemoved = defineEvent<{ userId: string }>('membership.removed', {
  subject: 'Membership',
  description: 'Somebody is no longer a member.',
  rights: true,
});
export const sessionsEnded = defineEvent<{ userId: string }>('user.sessionsEnded', {
  subject: 'User',
  description: 'Somebody signed out everywhere.',
  rights: true,
});
export const apiKeyCreated = defineEvent<{ role: string }>('apiKey.created', {
  subject: 'ApiKey',
  description: 'An API key was made.',
});
export const apiKeyRevoked = defineEvent('apiKey.revoked', {
  subject: 'ApiKey',
  description: 'An API key was revoked.',
  rights: true,
});
