import { defineEvent } from '#kernel/events/define.ts';

export const workspaceCreated = defineEvent('workspace.created', {
  subject: 'Workspace',
  description: 'The workspace was created.',
});

export const workspaceUpdated = defineEvent('workspace.updated', {
  subject: 'Workspace',
  description: 'Its name or short name was changed.',
});
export const workspaceDeleted = defineEvent('workspace.deleted', {
  subject: 'Workspace',
  description: 'Its deletion was asked for: nobody reaches it any more.',
  rights: true,
});

export const memberInvited = defineEvent<{ role: string }>('invitation.sent', {
  subject: 'Invitation',
  description: 'Somebody was asked to become a member, for the first time or again.',
});
export const invitationRevoked = defineEvent('invitation.revoked', {
  subject: 'Invitation',
  description: 'An invitation was taken back, or ended because its maker may not give that role any more.',
});
export const invitationAccepted = defineEvent<{ userId: string; membershipId: string }>('invitation.accepted', {
  subject: 'Invitation',
  description: 'An invitation was accepted.',
});
export const invitationDeclined = defineEvent('invitation.declined', {
  subject: 'Invitation',
  description: 'An invitation was declined.',
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
export const apiKeyCreated = defineEvent<{ role: string }>('apiKey.created', {
  subject: 'ApiKey',
  description: 'An API key was made.',
});
export const apiKeyUpdated = defineEvent('apiKey.updated', {
  subject: 'ApiKey',
  description: "An API key's name was changed.",
});
export const apiKeyRotated = defineEvent<{ successorId: string }>('apiKey.rotated', {
  subject: 'ApiKey',
  description: 'Another key took the place of an API key, which ends at once or after a time of grace.',
  rights: true,
});
export const apiKeyRevoked = defineEvent('apiKey.revoked', {
  subject: 'ApiKey',
  description: 'An API key was revoked.',
  rights: true,
});

export const userSignedUp = defineEvent('user.signedUp', {
  subject: 'User',
  description: 'Somebody made an account.',
});
export const userEmailVerified = defineEvent('user.emailVerified', {
  subject: 'User',
  description: 'Somebody proved that they read mail at their address.',
});
export const userEmailChanged = defineEvent<{ userId: string }>('user.emailChanged', {
  subject: 'User',
  description: 'Somebody has another, verified e-mail address; whether they are an operator hangs on it.',
  rights: true,
});
export const userPasswordChanged = defineEvent<{ by: 'PASSWORD' | 'RESET' }>('user.passwordChanged', {
  subject: 'User',
  description: 'Somebody has another password: `by` the one before, or by a mail to their address.',
});
export const userClosed = defineEvent<{ userId: string }>('user.closed', {
  subject: 'User',
  description: 'Somebody asked for their account to be deleted: nothing of theirs lets them in any more.',
  rights: true,
});

export const ssoConnectionCreated = defineEvent('ssoConnection.created', {
  subject: 'SsoConnection',
  description: 'A provider was set up.',
  least: 'ADMIN',
});
export const ssoConnectionUpdated = defineEvent('ssoConnection.updated', {
  subject: 'SsoConnection',
  description: 'The settings of a provider were changed.',
  least: 'ADMIN',
});
export const ssoConnectionDisabled = defineEvent('ssoConnection.disabled', {
  subject: 'SsoConnection',
  description: 'A provider was switched off; the sessions that it vouched for have ended.',
  rights: true,
  least: 'ADMIN',
});
export const ssoDomainAdded = defineEvent('ssoDomain.added', {
  subject: 'SsoDomain',
  description: 'A domain is to be the workspace’s own.',
  least: 'ADMIN',
});
export const ssoDomainVerified = defineEvent('ssoDomain.verified', {
  subject: 'SsoDomain',
  description: 'A domain was verified as the workspace’s own.',
  least: 'ADMIN',
});
export const ssoDomainRemoved = defineEvent('ssoDomain.removed', {
  subject: 'SsoDomain',
  description: 'A domain is no longer the workspace’s own.',
  least: 'ADMIN',
});
export const ssoEnforcementChanged = defineEvent('workspace.ssoEnforcementChanged', {
  subject: 'Workspace',
  description: 'Members other than owners must come in by its providers, or need not any more; `to` tells which.',
  rights: true,
});
export const identityLinked = defineEvent<{ userId: string }>('identity.linked', {
  subject: 'ExternalIdentity',
  description: 'Another system vouches for somebody from now on. In the log of the instance only.',
  least: 'ADMIN',
});
export const identityUnlinked = defineEvent<{ userId: string }>('identity.unlinked', {
  subject: 'ExternalIdentity',
  description: 'Another system does not vouch for somebody any more. In the log of the instance only.',
  least: 'ADMIN',
});
export const userTakenOver = defineEvent('user.takenOver', {
  subject: 'User',
  description:
    'Somebody proved that an address is theirs, of an account whose maker never did: its password, sessions, keys and other ways in ended. In the log of the instance only.',
  least: 'ADMIN',
});
