import { ErrorInterface, errorType } from '../graphql/kit.ts';
import { MailNotConfigured } from './transport.ts';

errorType(MailNotConfigured, {
  name: 'MailNotConfigured',
  description: 'This server cannot send mail, which this needs: its operator has to configure that first.',
  interfaces: [ErrorInterface],
});
