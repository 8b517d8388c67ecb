import { defineEvent } from '#kernel/events/define.ts';

export const repositoryConnected = defineEvent('repository.connected', {
  subject: 'ConnectedRepository',
  description: 'The workspace connected a repository.',
});
export const repositoryDisconnected = defineEvent('repository.disconnected', {
  subject: 'ConnectedRepository',
  description: 'The repository is connected no more; its token and secrets are gone.',
});
export const webhookSecretRotated = defineEvent('repository.webhookSecretRotated', {
  subject: 'ConnectedRepository',
  description: 'It has a new webhook secret; the one before is good for a day.',
});
export const webhookRedelivered = defineEvent<{ force: boolean }>('webhook.redelivered', {
  subject: 'WebhookDelivery',
  description: 'Somebody asked for a delivery to be processed again.',
});
