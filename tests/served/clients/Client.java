// Java's HttpClient at its defaults: it offers h2c with every request, and its body must not be lost for that.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;

public class Client {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String question = "{\"role\": \"user\", \"content\": \"What is the capital of France?\"}";
        for (String stream : new String[] {"false", "true", "false"}) {
            String body = "{\"model\": \"auto\", \"max_tokens\": 16, \"stream\": " + stream + ", \"messages\": [" + question + "]}";
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0] + "/v1/chat/completions"))
                .header("content-type", "application/json").POST(BodyPublishers.ofString(body)).build();
            HttpResponse<String> answer = client.send(request, BodyHandlers.ofString());
            if (answer.statusCode() != 200 || !answer.body().contains("\"choices\"")) {
                throw new IllegalStateException(answer.statusCode() + " " + answer.body());
            }
        }
    }
}
